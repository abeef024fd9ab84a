"""Imports point one way, and nothing heavy is imported before a command is checked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "kd_lightning"

# Part -> what it may import of the package besides itself.
ALLOWED = {
    "losses": set(),
    "models": {"conf_dir", "packages"},
    "data": {"core", "packages"},  # of core the one shift of language modelling
    "core": set(),
    "teachers": {"core", "data", "models"},
    "report": set(),
    "tuning": {"launch", "report", "runs"},
    # A folder of transformers is run by core's calls, as in training.
    "deploy": {"core", "data", "models", "report", "explain"},
}
HEAVY = ("torch", "lightning", "torchvision", "transformers", "timm", "torchmetrics", "wandb", "sklearn")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, as parts."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        parts |= {name.split(".")[1] for name in names if name.startswith("kd_lightning.") and "." in name}
    return parts


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_parts_import_only_what_they_may(part):
    files = sorted((SRC / part).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) <= ALLOWED[part] | {part}, path


def test_nothing_imports_jobs():
    for path in SRC.rglob("*.py"):
        if path.parent.name != "jobs" and path.name not in {"launch.py", "__init__.py"}:
            assert "jobs" not in imported(path), path


def test_composing_a_command_imports_nothing_heavy():
    code = (
        "import sys; sys.argv=['kd_lightning', '+experiment=digits_resnet', '--cfg', 'job'];"
        "from kd_lightning.__main__ import main; main();"
        f"heavy=[m for m in {HEAVY!r} if m in sys.modules]; sys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "name: digits_resnet" in done.stdout
