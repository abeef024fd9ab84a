"""Texts in, answers out: what surrounds a deployed language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.text.encode import spaced
from kd_lightning.data.text.prompts import encode_prompts, start_ids
from kd_lightning.data.text.tokenizers import at_rest
from kd_lightning.deploy.formats.registry import Runner
from kd_lightning.deploy.outputs import task_of

Text = str | tuple[str, str]
"""A text, or two of them where the student compares two."""

# Logits of all tokens that are made at once, as numbers (512 MB of float32).
AT_ONCE = 2**27
# The fact of the data that says how wide an answer is where it is a token.
VOCABULARY = "vocab_size"


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts.

    Attributes:
        tensors: By name, each (B, T) int64, padded on the right to the longest text.
        cut: Whether a text was longer than the student takes.
        first: For each word of each text the position of its first token; empty where words do not count.
    """

    tensors: dict[str, Tensor]
    cut: list[bool]
    first: list[list[int]]


class TextReader:
    """Tokenises as in training.

    Args:
        folder: A tokenizer that ``AutoTokenizer`` loads.
        preprocessing: As in preprocessing.json: ``max_length`` (tokens), ``names`` (tensors that the network takes),
            ``pair``, ``template`` and ``blocks``.
    """

    def __init__(self, folder: Path, preprocessing: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.max_length = int(preprocessing["max_length"])
        self.names = tuple(preprocessing["names"])
        self.template = preprocessing.get("template")
        self.start = [] if preprocessing.get("blocks") else start_ids(self.tokenizer)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, texts: Sequence[Text], words: bool = False) -> Encoded:
        """Tokenise texts; with ``words`` as rows of words, parted by white space."""
        first, second = zip(*(text if isinstance(text, tuple) else (text, None) for text in texts), strict=True)
        found = self.tokenizer(
            [spaced(text.split(), self.tokenizer) for text in first] if words else list(first),
            None if None in second else list(second),
            is_split_into_words=words, padding=True, padding_side="right", truncation=True,
            max_length=self.max_length, return_token_type_ids="token_type_ids" in self.names, return_tensors="pt",
        )  # fmt: skip
        rows = found.encodings
        starts = [_first_tokens(row.word_ids) for row in rows] if words else []
        tensors = {name: found[name].long() for name in self.names}
        return Encoded(tensors, [bool(row.overflowing) for row in rows], starts)

    def prompt(self, text: str) -> list[int]:
        """Tokens of what a language model is to go on with; of a text too long for its template the last ones."""
        at_rest(self.tokenizer)
        (lead,) = encode_prompts(self.tokenizer, self.tokenizer.backend_tokenizer, self.template, [text])
        most = len(lead) if self.template is None else self.max_length - len(self.start) - 1
        found = [*self.start, *lead.within(most)]
        return found or [self.tokenizer.eos_token_id]

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Rows of tokens as tensors; of one that is too long the start and the last tokens."""
        room = self.max_length - len(self.start)
        rows = [row if len(row) <= self.max_length else [*self.start, *row[-room:]] for row in rows]
        tensors = {name: torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64) for name in self.names}
        tensors["input_ids"].fill_(self.tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            tensors["input_ids"][i, : len(row)] = torch.tensor(row)
            tensors["attention_mask"][i, : len(row)] = 1
        return tensors


class TextModel:
    """A student (or teacher) of texts that answers as its task does; a ``kd_lightning.tasks.base.Answering``.

    Args:
        run: What the network takes to its answer.
        reader: Its tokenizer.
        preprocessing: As in preprocessing.json.
        top: How many classes, or tokens for a mask, are named.
        new_tokens: Most tokens that a language model adds.
    """

    def __init__(
        self, run: Runner, reader: TextReader, preprocessing: dict[str, Any], top: int = 3, new_tokens: int = 40
    ) -> None:
        self.run, self.read, self.prompt, self.padded = run, reader, reader.prompt, reader.padded
        self.tokenizer, self.max_length = reader.tokenizer, reader.max_length
        self.top, self.new_tokens = top, new_tokens
        self.task, self.class_names = task_of(preprocessing), preprocessing["class_names"]
        self.pair = bool(preprocessing.get("pair"))
        text = getattr(self.tokenizer, self.task.must_hold) if self.task.must_hold else "a"
        self.example: Text = (text, text) if self.pair else text

    def decode(self, request: dict[str, str]) -> Text:
        """A request that has passed the gate."""
        return (request["text"], request["pair"]) if self.pair else request["text"]

    def answer(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What the network says of each text.

        Returns:
            As ``answer`` of its task; ``cut`` where only the beginning of a text was read; ``error`` where there is no
            answer.

        Raises:
            ValueError: One text where two are compared, or the other way round; or ``top`` is not positive.
        """
        if self.top < 1:
            raise ValueError(f"At least one class must be named, not {self.top}.")
        if any(isinstance(text, tuple) != self.pair for text in texts):
            raise ValueError("This student compares two texts." if self.pair else "This student takes one text.")
        size = len(texts)
        if self.task.width == VOCABULARY:
            size = max(1, AT_ONCE // (self.max_length * len(self.tokenizer)))
        answers: list[dict[str, Any]] = []
        for start in range(0, len(texts), max(size, 1)):
            answers += self.task.answer(texts[start : start + size], self)
        return answers


def _first_tokens(words: Sequence[int | None]) -> list[int]:
    """Positions where a word begins."""
    return [i for i, word in enumerate(words) if word is not None and (i == 0 or words[i - 1] != word)]
