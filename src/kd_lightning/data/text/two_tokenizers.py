"""The same texts in the tokens of two tokenizers: the student's and the teacher's, row by row."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_lightning.data.text.encode import Layout
from kd_lightning.data.text.labels import Samples
from kd_lightning.data.text.prompts import encode_prompts, start_ids
from kd_lightning.data.text.rows import Rows, join_rows, make_rows
from kd_lightning.data.text.texts import CHUNK, Texts, pick

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pieces = tuple[Tensor, Tensor]
"""Tokens of a text (n,), and the character after the last one of each (n,), which never falls; int64 both."""


def encode_pair(
    samples: Samples,
    positions: Tensor,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    layouts: tuple[Layout, Layout],
) -> tuple[Rows, Rows]:
    """Rows of the samples for a causal language model, twice: row i holds the same text on both sides.

    A text that is too long for either is cut where a token of both ends; so are blocks. Rows have the column ``ends``:
    the character of the row's text (of the response, behind a prompt) after each token's last. The end token stands for
    one character. Every text begins with a token to be read, the start or else the end token, so that both sides
    predict it from its first character.

    Args:
        samples: Where the texts are.
        positions: Which, (n,) int64, n > 0.
        tokenizers: The student's and the teacher's.
        layouts: Of each; they differ in ``max_length`` only.
    """
    sides = tuple(_Side.of(tokenizer, layout) for tokenizer, layout in zip(tokenizers, layouts, strict=True))
    stream = _Blocks(sides) if layouts[0].blocks else None
    parts = []
    for start in range(0, len(positions), CHUNK):
        chunk = positions[start : start + CHUNK]
        if stream is None:
            parts.append(_texts(samples.texts, chunk, sides))
        else:
            parts.append(stream.add(pick(samples.texts.text, chunk), chunk, last=start + CHUNK >= len(positions)))
    ours, theirs = zip(*parts, strict=True)
    return join_rows(ours), join_rows(theirs)


@dataclass(frozen=True)
class _Side:
    """A tokenizer and its rows.

    Args:
        tokenizer: The tokenizer.
        backend: The same without what it puts around texts, and without offsets that leave out spaces.
        layout: Its rows.
        start: What a text without a prompt begins with; one token.
        own_start: What the tokenizer itself puts before a prompt.
    """

    tokenizer: Any
    backend: Any
    layout: Layout
    start: list[int]
    own_start: list[int]

    @classmethod
    def of(cls, tokenizer: Any, layout: Layout) -> _Side:
        from tokenizers import Tokenizer

        plain = json.loads(tokenizer.backend_tokenizer.to_str())
        plain |= {"post_processor": None, "truncation": None, "padding": None}
        own = start_ids(tokenizer)
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return cls(tokenizer, Tokenizer.from_str(json.dumps(plain)), layout, own or [first], own)

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """Tokens of texts and an end token, and where they end."""
        found = []
        for text, encoded in zip(texts, self.backend.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ends = torch.tensor([*(end for _, end in encoded.offsets), len(text) + 1]).cummax(0).values
            # What stands for no character, such as a space put before the text, belongs to the token after it.
            ends = torch.where(ends > 0, ends, ends[ends > 0][0])
            found.append((torch.tensor([*encoded.ids, self.tokenizer.eos_token_id]), ends))
        return found

    def lead(self, prompt: str | None, response: int) -> tuple[list[int], bool]:
        """What stands before a response of so many tokens: start and prompt, whose beginning gives way where it is too
        long, down to half of the row; and whether it was."""
        if prompt is None:
            return self.start, False
        (tokens,) = encode_prompts(self.tokenizer, self.backend, self.layout.template, [prompt])
        start = self.own_start if len(tokens) else self.start
        room = self.layout.max_length - len(start)
        keep = max(room - response, self.layout.max_length // 2 - len(start))
        return [*start, *tokens.within(keep)], len(tokens) > keep


Sides = tuple[_Side, ...]


def _shared(pieces: Sequence[Pieces]) -> tuple[Tensor, list[Tensor]]:
    """Characters where tokens of both end, (m,), and how many tokens each side has up to there, (m,) each."""
    bounds = torch.unique(pieces[0][1])
    bounds = bounds[torch.isin(bounds, pieces[1][1])]
    return bounds, [torch.searchsorted(ends, bounds, right=True) for _, ends in pieces]


def _fitting(counts: Sequence[Tensor], rooms: Sequence[int]) -> int:
    """How many of the shared ends come before either side is full."""
    return min(int(torch.searchsorted(count, room, right=True)) for count, room in zip(counts, rooms, strict=True))


def _texts(texts: Texts, chunk: Tensor, sides: Sides) -> tuple[Rows, Rows]:
    """A row a text."""
    responses = [side.pieces(pick(texts.text, chunk)) for side in sides]
    prompts: list[str | None] = [None] * len(chunk) if texts.prompt is None else pick(texts.prompt, chunk)
    tokens: tuple[list[Any], list[Any]] = ([], [])
    ends: tuple[list[Any], list[Any]] = ([], [])
    sizes: tuple[list[int], list[int]] = ([], [])
    cut = 0
    for row, prompt in enumerate(prompts):
        pieces = [response[row] for response in responses]
        leads, shortened = zip(
            *(side.lead(prompt, len(own[0])) for side, own in zip(sides, pieces, strict=True)), strict=True
        )
        rooms = [side.layout.max_length - len(lead) for side, lead in zip(sides, leads, strict=True)]
        counts = _shared(pieces)[1]
        fit = _fitting(counts, rooms)
        cut += any(shortened) or fit < len(counts[0])
        for i, (lead, (found, until)) in enumerate(zip(leads, pieces, strict=True)):
            count = int(counts[i][fit - 1]) if fit else 0
            tokens[i].append([*lead, *found[:count].tolist()])
            ends[i].append([*[0] * len(lead), *until[:count].tolist()])
            sizes[i].append(len(lead))
    whole = texts.prompt is None
    ours, theirs = (
        make_rows(tokens[i], chunk.tolist(), None if whole else sizes[i], cut, ends=ends[i]) for i in range(len(sides))
    )
    return ours, theirs


class _Blocks:
    """Texts joined and cut into blocks of the same text; what does not fill a block waits for the next texts."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides
        self.sizes = [side.layout.max_length - len(side.start) for side in sides]
        self.pieces: list[Pieces] = [(torch.empty(0, dtype=torch.int64),) * 2 for _ in sides]
        self.begin, self.length = 0, 0  # characters that are cut, and all so far
        self.until: list[int] = []  # where each sample ends
        self.samples: list[int] = []

    def add(self, texts: Sequence[str], positions: Tensor, last: bool) -> tuple[Rows, Rows]:
        """Blocks that are full; of the last texts all."""
        begins = []
        for text, sample in zip(texts, positions.tolist(), strict=True):
            begins.append(self.length)
            self.length += len(text) + 1
            self.until.append(self.length)
            self.samples.append(sample)
        for i, side in enumerate(self.sides):
            found = side.pieces(texts)
            new = [(tokens, ends + begin) for (tokens, ends), begin in zip(found, begins, strict=True)]
            tokens, ends = zip(self.pieces[i], *new, strict=True)
            self.pieces[i] = (torch.cat(tokens), torch.cat(ends))
        return self._cut(last)

    def _cut(self, last: bool) -> tuple[Rows, Rows]:
        bounds, counts = _shared(self.pieces)
        tokens: tuple[list[Any], list[Any]] = ([], [])
        ends: tuple[list[Any], list[Any]] = ([], [])
        samples: list[int] = []
        done, taken = 0, [0] * len(self.sides)
        while done < len(bounds):
            fit = _fitting(counts, [start + size for start, size in zip(taken, self.sizes, strict=True)])
            if fit == len(bounds) and not last:
                break
            until = max(fit, done + 1)
            place, end = [int(count[until - 1]) for count in counts], int(bounds[until - 1])
            if fit > done:  # else a piece of text fits into no row, and is left out
                for i, side in enumerate(self.sides):
                    own, there = (column[taken[i] : place[i]] for column in self.pieces[i])
                    tokens[i].append([*side.start, *own.tolist()])
                    ends[i].append([*[0] * len(side.start), *(there - self.begin).tolist()])
                samples.append(self._sample(end))
            taken, done, self.begin = place, until, end
        self.pieces = [(own[n:], there[n:]) for n, (own, there) in zip(taken, self.pieces, strict=True)]
        gone = bisect_right(self.until, self.begin)
        del self.until[:gone], self.samples[:gone]
        ours, theirs = (make_rows(tokens[i], samples, ends=ends[i]) for i in range(len(self.sides)))
        return ours, theirs

    def _sample(self, end: int) -> int:
        """The sample that the text up to ``end`` is of; -1 where it is of several."""
        first = bisect_right(self.until, self.begin)
        return self.samples[first] if self.until[first] >= end else -1
