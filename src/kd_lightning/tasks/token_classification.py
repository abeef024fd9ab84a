"""One of a few classes for every word of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from kd_lightning.tasks.base import Answer, Answering, noting_cuts
from kd_lightning.tasks.classification import Classification


class TokenClassification(Classification):
    """One of C classes for every word, at its first token."""

    name = "token_classification"
    target = "tags"
    rows = "tokens"
    metrics = "token_classification"
    quality_name = "accuracy of tokens"
    alike_name = "share of the tokens with the same class"
    head = "AutoModelForTokenClassification"
    view = "words"
    verb = "Tag words"
    card: ClassVar = {"text": ("token-classification", "A token classifier")}

    def answer(self, texts: Sequence[Any], net: Answering) -> list[Answer]:
        """``tokens``: pairs of word and class for every word that was read, as training has it at its first token."""
        read = net.read(texts, words=True)
        logits: Tensor = net.run(read.tensors)
        found = []
        for text, places, row in zip(texts, read.first, logits.argmax(-1).tolist(), strict=True):
            pairs = zip(str(text).split()[: len(places)], places, strict=True)
            found.append({"tokens": [[word, net.class_names[row[place]]] for word, place in pairs]})
        return noting_cuts(found, read.cut)
