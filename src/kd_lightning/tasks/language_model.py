"""Tokens that are predicted: causal and masked language models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.reliability import reliability_curve
from kd_lightning.measures.score import Measure, Score
from kd_lightning.tasks.base import Answer, Answering, noting_cuts
from kd_lightning.tasks.classification import CALIBRATION, LIKENESS, NLL, Distribution


class LanguageModel(Distribution):
    """A distribution over the vocabulary for every token that is to be told."""

    width = "vocab_size"
    unit = "tokens"
    rows = "tokens"
    metrics = "language_model"
    score = Score("nll", "NLL", "nats", "nats per token", scale=1.0, digits=3, higher=False)
    columns = (
        Measure("perplexity", "Perplexity", "", 1, short=True),
        Measure("top1", "Top-1", short=True),
        NLL,
        *CALIBRATION,
        *LIKENESS,
    )
    alike_name = "share of the tokens with the same class"

    def measures(self, outputs: Tensor, target: Tensor) -> dict[str, float]:
        """``token_metrics`` of logits (N, V)."""
        return token_metrics(outputs, target)

    def trivial(self, target: Tensor, width: int) -> float:
        """The likelihood of all tokens being equally likely, in nats."""
        return math.log(width)


class CausalLM(LanguageModel):
    """The next token."""

    name = "causal_lm"
    target = "next_tokens"
    quality_name = "accuracy of the next token"
    head = "AutoModelForCausalLM"
    view = "continuation"
    verb = "Continue"
    ask = "Beginning of a text"
    card: ClassVar = {"text": ("text-generation", "A language model")}

    def answer(self, texts: Sequence[Any], net: Answering) -> list[Answer]:
        """``continuation``: the most probable one, token by token; texts that have not ended go on together."""
        end = net.tokenizer.eos_token_id
        rows = [net.prompt(str(text)) for text in texts]
        begin = [len(row) for row in rows]
        going = list(range(len(rows)))
        for _ in range(net.new_tokens):
            tensors = net.padded([rows[i] for i in going])
            last = tensors["attention_mask"].sum(1) - 1
            following = net.run(tensors)[torch.arange(len(going)), last].argmax(-1).tolist()
            for i, token in zip(going, following, strict=True):
                if token != end:
                    rows[i].append(token)
            going = [i for i, token in zip(going, following, strict=True) if token != end]
            if not going:
                break
        tails = [row[start:] for row, start in zip(rows, begin, strict=True)]
        said = net.tokenizer.batch_decode(tails, skip_special_tokens=True)
        return [{"continuation": str(text)} for text in said]


class MaskedLM(LanguageModel):
    """The token behind a mask."""

    name = "masked_lm"
    target = "masked_tokens"
    quality_name = "accuracy of masked tokens"
    head = "AutoModelForMaskedLM"
    must_hold = "mask_token"
    view = "fill"
    verb = "Fill in"
    ask = "Text with {mask} where a word is missing"
    card: ClassVar = {"text": ("fill-mask", "A masked language model")}

    def answer(self, texts: Sequence[Any], net: Answering) -> list[Answer]:
        """``classes``: the most probable tokens for the first mask; ``error`` where there is none."""
        read = net.read(texts)
        mask, found = net.tokenizer.mask_token_id, list[Answer]()
        for row, scores in zip(read.tensors["input_ids"], net.run(read.tensors), strict=True):
            places = (row == mask).nonzero()
            if not len(places):
                within = f" among the {net.max_length} tokens that are read"
                found.append({"error": f"There is no {net.tokenizer.mask_token} to be filled in{within}."})
                continue
            best = scores[int(places[0])].float().softmax(0).topk(min(net.top, scores.shape[-1]))
            said = [_in_words(net.tokenizer, token) for token in best.indices.tolist()]
            pairs = zip(said, best.values.tolist(), strict=True)
            found.append({"classes": [{"class": token, "probability": round(p, 6)} for token, p in pairs]})
        return noting_cuts(found, read.cut)


def _in_words(tokenizer: Any, token: int) -> str:
    """A token as people write it; a part of a character as the tokenizer does."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def token_metrics(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Likelihood and calibration of predicted tokens: logits (N, V), target (N,).

    Returns:
        `nll` in nats per token, `perplexity`, its exponential, and `top1` and `ece` in [0, 1].
    """
    found = reliability_curve(logits, target)
    nll = float(F.cross_entropy(logits.float(), target))
    return {
        "nll": nll,
        "perplexity": math.exp(min(nll, 700.0)),
        "top1": float((logits.argmax(1) == target).float().mean()),
        "ece": float((found.share * (found.confidence - found.accuracy).abs()).sum()),
    }
