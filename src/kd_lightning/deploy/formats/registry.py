"""What a student can be exported to: every ``Format`` that a file of this folder defines."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from kd_lightning.config.explain import near
from kd_lightning.deploy import formats
from kd_lightning.deploy.formats.base import Format, Runner
from kd_lightning.files.defined import defined_in

__all__ = ["FORMATS", "Format", "Runner", "found", "known_format"]


def found(package: ModuleType) -> dict[str, Format]:
    """The formats that the modules of a package define, by name, in the order of lists.

    Args:
        package: Its modules are imported, so none may import anything heavy before it is used.

    Raises:
        ValueError: Two formats have one name, or are written to one file; names the modules.
    """
    where: dict[Format, str] = {}
    for module, each in defined_in(package):
        if isinstance(each, Format):
            where.setdefault(each, module)
    for key in ("name", "file"):
        first: dict[str, Format] = {}
        for each, module in where.items():
            other = first.setdefault(getattr(each, key), each)
            if other is not each:
                raise ValueError(
                    f"Two export formats have the {key} '{getattr(each, key)}': '{other.name}' of {where[other]} and"
                    f" '{each.name}' of {module}. Give one of them another {key}."
                )
    return {each.name: each for each in sorted(where, key=lambda each: (each.place, each.name))}


FORMATS: Mapping[str, Format] = found(formats)


def known_format(name: str, setting: str) -> Format:
    """The format of this name.

    Args:
        name: Name in ``FORMATS``.
        setting: What the user set, for the error.

    Raises:
        ValueError: There is no such format; names near ones.
    """
    if name not in FORMATS:
        raise ValueError(f"{setting}: there is no format '{name}'. {near(name, list(FORMATS))}")
    return FORMATS[name]
