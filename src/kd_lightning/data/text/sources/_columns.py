"""From a table with named columns to texts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kd_lightning.data.targets import without
from kd_lightning.data.text.texts import Texts, in_chunks


@dataclass(frozen=True)
class Columns:
    """Which column is what; None: there is none.

    Args:
        text: The text; of instruction data the response.
        pair: The second text of a pair.
        label: Class or number.
        words: Lists of words, for token_classification; then ``text`` is not read.
        tags: Lists of their classes.
        prompt: What comes before the text and is not learnt.
    """

    text: str | None = "text"
    pair: str | None = None
    label: str | None = None
    words: str | None = None
    tags: str | None = None
    prompt: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Columns to read: what -> its name."""
        named = {key: value for key, value in vars(self).items() if value is not None}
        if "words" in named:
            named.pop("text", None)
        elif "text" not in named:
            raise ValueError("Name a column: data.source.text, or data.source.words for words with tags.")
        return named

    def check(self, found: Iterable[str], where: str, more: str = "") -> None:
        """Refuse names that the table does not have.

        Args:
            found: The columns that it has.
            where: What the user calls it.
            more: What else may be the matter.

        Raises:
            ValueError: With the columns that there are, the nearest first.
        """
        found = [str(name) for name in found]
        for key, name in self.named.items():
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                without = "" if key in ("text", "words") else f", or data.source.{key}=null if there is none"
                raise ValueError(
                    f"{where} has no column '{name}'; it has {', '.join(found)}.{hint}"
                    f" Set data.source.{key}{without}.{more}"
                )

    def texts(
        self,
        table: Mapping[str, Sequence[Any]],
        sizes: Mapping[str, int],
        where: str,
        missing: Any = None,
        **more: Any,
    ) -> Texts:
        """The texts of a table.

        Args:
            table: The columns, the splits one after the other.
            sizes: Rows of each split, in that order; one split alone is free to be split anew.
            where: What the user calls the table.
            missing: What stands in ``label`` or ``tags`` where there is none, beside nothing: a value or a list.
            more: More arguments of :class:`Texts`.
        """
        columns: dict[str, Any] = {key: table[name] for key, name in self.named.items()}
        for key in ("label", "tags"):
            if key in columns and missing is not None:
                columns[key] = without(columns[key], missing)
        for key in ("text", "pair", "prompt"):
            if key in columns:
                _check_strings(columns[key], self.named[key], where)
        for key in ("words", "tags"):
            if key in columns:
                _check_lists(columns[key], self.named[key], where)
        if "words" in columns:
            columns["text"] = [" ".join(map(str, words)) for words in in_chunks(columns["words"])]
        return Texts(**columns, **official(sizes), **more)


def official(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Positions of the test and validation splits, of splits that lie one after the other."""
    held: dict[str, Any] = {}
    start = 0
    for name, size in sizes.items():
        if name != "train":
            held[name] = torch.arange(start, start + size)
        start += size
    return held


def check_splits(names: Iterable[str]) -> None:
    """Refuse splits that are not known, and data without training split."""
    names = list(names)
    if unknown := [name for name in names if name not in ("train", "validation", "test")]:
        raise ValueError(f"data.source: '{unknown[0]}' is no split; name train, validation and test.")
    if "train" not in names:
        raise ValueError("data.source: there is no training split; name it with train: ...")


def _check_strings(column: Sequence[Any], name: str, where: str) -> None:
    for row, value in enumerate(in_chunks(column)):
        if not isinstance(value, str):
            what = "nothing" if value is None else f"{type(value).__name__} ({value!r:.40})"
            raise ValueError(f"{where}: row {row} has {what} in column '{name}', which must hold texts.")


def _check_lists(column: Sequence[Any], name: str, where: str) -> None:
    for row, value in enumerate(in_chunks(column)):
        if not isinstance(value, (list, tuple)):
            raise ValueError(
                f"{where}: row {row} has {value!r:.40} in column '{name}', which must hold lists, a part for each word."
            )
