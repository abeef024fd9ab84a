"""Texts in, answers out: what surrounds a deployed language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.text.encode import fill, ids, spaced, start_ids
from kd_lightning.deploy.formats.registry import Runner
from kd_lightning.deploy.outputs import top_classes

Text = str | tuple[str, str]
"""A text, or two of them where the student compares two."""

# Logits of all tokens that are made at once, as numbers (512 MB of float32).
AT_ONCE = 2**27


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

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
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
        """Tokens of what a language model is to go on with."""
        found = [*self.start, *ids(self.tokenizer, [fill(self.tokenizer, self.template, text)])[0]]
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
    """A student (or teacher) of texts, by its task.

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
        self.run, self.reader, self.top, self.new_tokens = run, reader, top, new_tokens
        self.task, self.class_names = preprocessing["task"], preprocessing["class_names"]
        self.pair = bool(preprocessing.get("pair"))
        text = reader.tokenizer.mask_token if self.task == "masked_lm" else "a"
        self.example: Text = (text, text) if self.pair else text

    def decode(self, request: dict[str, str]) -> Text:
        """A request that has passed the gate."""
        return (request["text"], request["pair"]) if self.pair else request["text"]

    def answer(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """What the network says of each text.

        Returns:
            ``classes`` (of the text, or for its first mask), ``value``, ``embedding``, ``tokens`` (pairs of word and
            class) or ``continuation``; ``cut`` where only its beginning was read; ``error`` where there is no answer.

        Raises:
            ValueError: One text where two are compared, or the other way round; or ``top`` is not positive.
        """
        if self.top < 1:
            raise ValueError(f"At least one class must be named, not {self.top}.")
        if any(isinstance(text, tuple) != self.pair for text in texts):
            raise ValueError("This student compares two texts." if self.pair else "This student takes one text.")
        size = len(texts)
        if self.task in ("causal_lm", "masked_lm"):
            size = max(1, AT_ONCE // (self.reader.max_length * len(self.reader.tokenizer)))
        answers: list[dict[str, Any]] = []
        for start in range(0, len(texts), max(size, 1)):
            answers += self._some(texts[start : start + size])
        return answers

    def _some(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        if self.task == "causal_lm":
            return [{"continuation": said} for said in self._continuations([str(text) for text in texts])]
        encoded = self.reader(texts, words=self.task == "token_classification")
        output = self.run(encoded.tensors)
        if self.task == "regression":
            answers: list[dict[str, Any]] = [{"value": round(float(value), 6)} for value in output[:, 0]]
        elif self.task == "embedding":
            answers = [{"embedding": [round(x, 6) for x in row]} for row in output.tolist()]
        elif self.task == "masked_lm":
            answers = self._fills(encoded.tensors["input_ids"], output)
        elif self.task == "token_classification":
            answers = self._words(texts, encoded.first, output)
        else:
            answers = [{"classes": classes} for classes in top_classes(output, self.class_names, self.top)]
        return [{**a, "cut": True} if cut else a for a, cut in zip(answers, encoded.cut, strict=True)]

    def _words(self, texts: Sequence[Text], first: list[list[int]], logits: Tensor) -> list[dict[str, Any]]:
        """The class of every word that was read, as training has it: that of its first token."""
        found = []
        for text, places, row in zip(texts, first, logits.argmax(-1).tolist(), strict=True):
            words = str(text).split()[: len(places)]
            pairs = zip(words, places, strict=True)
            found.append({"tokens": [[word, self.class_names[row[place]]] for word, place in pairs]})
        return found

    def _fills(self, tokens: Tensor, logits: Tensor) -> list[dict[str, Any]]:
        """The most probable tokens for the first mask of each text."""
        tokenizer = self.reader.tokenizer
        found: list[dict[str, Any]] = []
        for row, scores in zip(tokens, logits, strict=True):
            places = (row == tokenizer.mask_token_id).nonzero()
            if not len(places):
                read = f" among the {self.reader.max_length} tokens that are read"
                found.append({"error": f"There is no {tokenizer.mask_token} to be filled in{read}."})
                continue
            best = scores[int(places[0])].float().softmax(0).topk(min(self.top, scores.shape[-1]))
            said = [self._in_words(token) for token in best.indices.tolist()]
            pairs = zip(said, best.values.tolist(), strict=True)
            found.append({"classes": [{"class": token, "probability": round(p, 6)} for token, p in pairs]})
        return found

    def _in_words(self, token: int) -> str:
        """A token as people write it; a part of a character as the tokenizer does."""
        text = str(self.reader.tokenizer.decode([token]))
        return str(self.reader.tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text

    def _continuations(self, texts: Sequence[str]) -> list[str]:
        """The most probable continuations, token by token; all texts that have not ended go on together."""
        end = self.reader.tokenizer.eos_token_id
        rows = [self.reader.prompt(text) for text in texts]
        begin = [len(row) for row in rows]
        going = list(range(len(rows)))
        for _ in range(self.new_tokens):
            tensors = self.reader.padded([rows[i] for i in going])
            last = tensors["attention_mask"].sum(1) - 1
            following = self.run(tensors)[torch.arange(len(going)), last].argmax(-1).tolist()
            for i, token in zip(going, following, strict=True):
                if token != end:
                    rows[i].append(token)
            going = [i for i, token in zip(going, following, strict=True) if token != end]
            if not going:
                break
        tails = [row[start:] for row, start in zip(rows, begin, strict=True)]
        return [str(text) for text in self.reader.tokenizer.batch_decode(tails, skip_special_tokens=True)]


def _first_tokens(words: Sequence[int | None]) -> list[int]:
    """Positions where a word begins."""
    return [i for i, word in enumerate(words) if word is not None and (i == 0 or words[i - 1] != word)]
