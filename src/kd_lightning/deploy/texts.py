"""Texts in, answers out: what surrounds a deployed language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.deploy.formats import Runner
from kd_lightning.deploy.inputs import Inputs


class TextReader:
    """Tokenises as in training.

    Args:
        folder: A tokenizer that ``AutoTokenizer`` loads.
        preprocessing: ``max_length`` (tokens, or None), and ``names``, the tensors that the network takes.
    """

    def __init__(self, folder: Path, preprocessing: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_length = preprocessing.get("max_length")
        self.names = tuple(preprocessing.get("names", ("input_ids", "attention_mask")))
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tensors by name, each (B, T) int64, padded on the right to the longest text."""
        found = self.tokenizer(
            list(texts), padding=True, truncation=self.max_length is not None, max_length=self.max_length,
            padding_side="right", return_tensors="pt",
        )  # fmt: skip
        missing = [name for name in self.names if name not in found]
        for name in missing:  # such as token types, which a tokenizer of one sentence leaves out
            found[name] = torch.zeros_like(found["input_ids"])
        return {name: found[name].long() for name in self.names}


def values(answers: Tensor) -> list[dict[str, Any]]:
    """Predicted values (B, 1)."""
    return [{"value": round(float(value), 6)} for value in answers[:, 0]]


def embeddings(answers: Tensor) -> list[dict[str, Any]]:
    """Embeddings (B, D) as lists."""
    return [{"embedding": [round(x, 6) for x in row]} for row in answers.tolist()]


def labels(answers: Tensor, inputs: Inputs, names: Sequence[str], reader: TextReader) -> list[dict[str, Any]]:
    """The most probable class of every token (B, T, C)."""
    assert isinstance(inputs, dict)
    found = []
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"], answers.argmax(-1), strict=True):
        tokens = reader.tokenizer.convert_ids_to_tokens(ids[mask.bool()].tolist())
        found.append({"tokens": [[t, names[int(c)]] for t, c in zip(tokens, row[mask.bool()], strict=True)]})
    return found


def fills(answers: Tensor, inputs: Inputs, top: int, reader: TextReader) -> list[dict[str, Any]]:
    """The most probable tokens for the first mask of each text (B, T, V); an error where there is none."""
    assert isinstance(inputs, dict)
    found: list[dict[str, Any]] = []
    for ids, logits in zip(inputs["input_ids"], answers, strict=True):
        places = (ids == reader.tokenizer.mask_token_id).nonzero()
        if not len(places):
            found.append({"error": f"there is no {reader.tokenizer.mask_token} to be filled in"})
            continue
        best = logits[int(places[0])].float().softmax(0).topk(top)
        tokens = reader.tokenizer.convert_ids_to_tokens(best.indices.tolist())
        pairs = zip(tokens, best.values.tolist(), strict=True)
        found.append({"classes": [{"class": token, "probability": round(p, 6)} for token, p in pairs]})
    return found


def continuation(text: str, run: Runner, reader: TextReader, new_tokens: int) -> str:
    """The most probable continuation, token by token.

    Args:
        text: The beginning.
        run: The language model.
        reader: Its tokenizer.
        new_tokens: Most tokens that are added; fewer where the text ends.
    """
    ids = reader([text])["input_ids"]
    end = reader.tokenizer.eos_token_id
    if len(ids[0]) > 1 and int(ids[0, -1]) == end:  # some tokenizers close what is to go on
        ids = ids[:, :-1]
    start = ids.shape[1]
    for _ in range(new_tokens):
        seen = ids if reader.max_length is None else ids[:, -reader.max_length :]
        tensors = {name: torch.ones_like(seen) if name == "attention_mask" else seen for name in reader.names}
        following = run(tensors)[:, -1].argmax(-1, keepdim=True)
        if int(following) == end:
            break
        ids = torch.cat([ids, following], dim=1)
    return str(reader.tokenizer.decode(ids[0, start:], skip_special_tokens=True))
