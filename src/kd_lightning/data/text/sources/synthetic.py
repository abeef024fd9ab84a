"""Made-up text that can be learnt: for tests and smoke runs, in every task."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kd_lightning.data.targets import CLASSES, NEXT_TOKENS, TAGS, VALUES, target_of
from kd_lightning.data.text.texts import Texts

_TOPICS: tuple[tuple[str, ...], ...] = (
    ("apple", "pear", "plum", "cherry", "fig"),
    ("iron", "copper", "silver", "tin", "gold"),
    ("rain", "snow", "wind", "hail", "fog"),
    ("flute", "violin", "drum", "harp", "horn"),
)
_OTHERS = ("the", "a", "and", "with", "near", "some", "old", "new", "of", "my")


class SyntheticText:
    """Sentences of filler words with words of one of four topics among them.

    The class is the topic; the number of a regression is the share of topic words; a word's class is its topic or
    none; a prompt asks for its own words in reverse; a language model can learn that words of a topic keep together.

    Args:
        samples: How many.
        task: What they are for, as ``data.task``.
        num_classes: Topics, 2 to 4 (classification, token_classification).
        pairs: Two texts a sample, of the same topic or (class 0) not.
        prompts: Prompts and responses (causal_lm).
        words: Fewest and most words of a text.
        unlabelled: Share of the samples whose label is left out (classification).
        seed: Decides all.
    """

    def __init__(
        self,
        samples: int = 400,
        task: str = "classification",
        num_classes: int | None = None,
        pairs: bool = False,
        prompts: bool = False,
        words: Sequence[int] = (4, 12),
        unlabelled: float = 0.0,
        seed: int = 0,
    ) -> None:
        topics = 2 if pairs else num_classes or 3
        if not 2 <= topics <= len(_TOPICS):
            raise ValueError(f"synthetic_text: num_classes must be 2 to {len(_TOPICS)}, got {num_classes}.")
        self.samples, self.target, self.topics, self.pairs, self.prompts = (
            samples,
            target_of(task),
            topics,
            pairs,
            prompts,
        )
        self.words, self.unlabelled, self.seed = tuple(words), unlabelled, seed

    def load(self) -> Texts:
        """Make all samples."""
        draw = random.Random(self.seed)
        topics = [i % self.topics for i in range(self.samples)]
        sentences = [self._sentence(draw, topic) for topic in topics]
        text = [" ".join(sentence) for sentence in sentences]
        if self.target is TAGS:
            tags = [[self._tag(word) for word in sentence] for sentence in sentences]
            return Texts(text, words=sentences, tags=tags)
        if self.target is VALUES:
            shares = [sum(word not in _OTHERS for word in s) / len(s) for s in sentences]
            return Texts(text, label=shares)
        if self.target is CLASSES and self.pairs:
            second = [" ".join(self._sentence(draw, draw.randrange(len(_TOPICS)))) for _ in text]
            same = [int(bool(_topics(a) & _topics(b))) for a, b in zip(text, second, strict=True)]
            return Texts(text, pair=second, label=same, class_names=("different", "same"))
        if self.target is CLASSES:
            label = [None if draw.random() < self.unlabelled else f"topic{topic}" for topic in topics]
            return Texts(text, label=label)
        if self.target is NEXT_TOKENS and self.prompts:
            return Texts([" " + " ".join(reversed(s)) for s in sentences], prompt=[f"{t} =" for t in text])
        return Texts(text)

    def _sentence(self, draw: random.Random, topic: int) -> list[str]:
        length = draw.randint(*self.words)
        found = [draw.choice(_TOPICS[topic] if draw.random() < 0.4 else _OTHERS) for _ in range(length)]
        if not any(word in _TOPICS[topic] for word in found):
            found[draw.randrange(length)] = draw.choice(_TOPICS[topic])
        return found

    def _tag(self, word: str) -> str:
        for number, words in enumerate(_TOPICS[: self.topics]):
            if word in words:
                return f"topic{number}"
        return "O"


def _topics(text: str) -> set[int]:
    return {number for number, words in enumerate(_TOPICS) if set(words) & set(text.split())}
