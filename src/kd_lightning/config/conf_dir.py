"""Where the shipped configuration lies: inside an installed wheel, or at the top of the checkout."""

from pathlib import Path


def conf_dir() -> Path:
    """Absolute path of the configuration folder."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"
