"""What a source of text gives: all samples in one pool, labels as they were found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

CHUNK = 1000
"""Samples that are looked at together."""


@dataclass(frozen=True)
class Texts:
    """All samples of a data set.

    Args:
        text: The texts; of instruction data the responses. A list, or anything that is indexed by slices and lists.
        pair: Second texts of sentence pairs.
        prompt: What comes before ``text`` and is not learnt, for causal_lm.
        words: The words of each text, for token_classification.
        label: A class (any value) or a number for each text; None and "" mean that it has none.
        tags: A class for each word of each text.
        class_names: Names of the classes where labels are their numbers; None to take the labels that occur.
        test: Positions of the official test split, (n,) int64; None where there is none.
        validation: The same for validation.
        documents: Whether a text is long, a document to be cut into blocks for language modelling.
    """

    text: Sequence[str]
    pair: Sequence[str] | None = None
    prompt: Sequence[str] | None = None
    words: Sequence[Sequence[str]] | None = None
    label: Sequence[Any] | None = None
    tags: Sequence[Sequence[Any]] | None = None
    class_names: tuple[str, ...] | None = None
    test: Tensor | None = None
    validation: Tensor | None = None
    documents: bool = False

    def __post_init__(self) -> None:
        if not len(self.text):
            raise ValueError("The data set holds no texts.")
        for name in ("pair", "prompt", "words", "label", "tags"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.text):
                raise ValueError(f"{len(self.text)} texts but {len(column)} of '{name}'; there must be one a text.")

    def __len__(self) -> int:
        return len(self.text)


_COLUMNS = ("text", "pair", "prompt", "words", "label", "tags")


def pick(column: Sequence[Any], positions: Tensor) -> list[Any]:
    """Entries of a column at ``positions`` (n,) int64."""
    wanted = positions.tolist()
    if isinstance(column, list):
        return [column[i] for i in wanted]
    return list(column[wanted])  # type: ignore[call-overload]  # a column of `datasets` reads them together


def said(texts: Texts, positions: Tensor) -> list[str]:
    """These samples as people read them: of a pair both, of a prompt and its response both, with a tab between."""
    columns = [pick(c, positions) for c in (texts.prompt, texts.text, texts.pair) if c is not None]
    return ["\t".join(parts) for parts in zip(*columns, strict=True)]


def in_chunks(column: Sequence[Any], positions: Tensor | None = None) -> Iterator[Any]:
    """Entries of a column one by one, read in chunks; all, or those at ``positions``."""
    positions = torch.arange(len(column)) if positions is None else positions
    for start in range(0, len(positions), CHUNK):
        yield from pick(column, positions[start : start + CHUNK])


def training_corpus(texts: Texts, positions: Tensor) -> Iterator[str]:
    """Everything that is read of the samples, for the training of a tokenizer."""
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        for column in (texts.prompt, texts.text, texts.pair):
            if column is not None:
                yield from pick(column, chunk)


def take(texts: Texts, positions: Tensor) -> Texts:
    """The samples at ``positions`` (n,) int64; official splits are renumbered."""
    place = torch.full((len(texts),), -1, dtype=torch.int64)
    place[positions] = torch.arange(len(positions))
    held: dict[str, Any] = {}
    for name in ("test", "validation"):
        official = getattr(texts, name)
        held[name] = None if official is None else place[official][place[official] >= 0]
    columns: dict[str, Any] = {
        n: None if getattr(texts, n) is None else pick(getattr(texts, n), positions) for n in _COLUMNS
    }
    return replace(texts, **columns, **held)


def without_duplicates(texts: Texts) -> Texts:
    """Of samples with equal texts the first, where those of the official test come first, then validation."""
    first = [held for held in (texts.test, texts.validation) if held is not None]
    rest = torch.ones(len(texts), dtype=torch.bool)
    for held in first:
        rest[held] = False
    order = torch.cat([*first, rest.nonzero().squeeze(1)])
    keys = [in_chunks(c, order) for c in (texts.text, texts.pair, texts.prompt) if c is not None]
    seen: set[bytes] = set()
    kept = []
    for position, *parts in zip(order.tolist(), *keys, strict=True):
        key = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            kept.append(position)
    return texts if len(kept) == len(texts) else take(texts, torch.tensor(sorted(kept)))


def content_hash(texts: Texts) -> str:
    """sha256 (hex) over everything that is read of the samples."""
    digest = hashlib.sha256(repr(texts.class_names).encode())
    for name in _COLUMNS:
        column = getattr(texts, name)
        digest.update(f"\0{name}:{column is not None}".encode())
        for entry in in_chunks(column or []):
            data = entry.encode(errors="surrogatepass") if isinstance(entry, str) else repr(entry).encode()
            digest.update(f"{len(data)}:".encode())
            digest.update(data)
    for held in (texts.test, texts.validation):
        digest.update(repr(None if held is None else held.tolist()).encode())
    return digest.hexdigest()


@runtime_checkable
class TextSource(Protocol):
    """Reads a data set. Making one is cheap and touches no file; ``load`` does the work."""

    def load(self) -> Texts: ...
