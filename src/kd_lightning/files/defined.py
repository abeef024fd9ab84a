"""What the files of a folder of the package define: a task, a probe, a format is found by lying in its folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def defined_in(package: ModuleType) -> Iterator[tuple[str, Any]]:
    """Every name that stands in a module of a package, imported ones too: the module's name, and the object.

    Args:
        package: Its modules are imported, by name, so none may import anything heavy before it is used.
    """
    for module in sorted(one.name for one in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")):
        for each in list(vars(importlib.import_module(module)).values()):
            yield module, each
