"""Settings that are one of a few words, or have to agree with the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping


def check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a value that is none of those known, and name the nearest."""
    for key, (value, known) in choices.items():
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"data.{key}={value}: choose {', '.join(known)}.{hint}")


def check_found(name: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Refuse a configured value, other than None, that is not what was found."""
    for key, value in wanted.items():
        if value is not None and value != found[key]:
            raise ValueError(
                f"data.{key}={value}, but {name} has {found[key]}; set it to that, or to null to take it over."
            )
