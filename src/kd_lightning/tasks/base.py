"""What a task is: the kind of its answers, how they are learnt, judged, compared with a teacher's, and said."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from kd_lightning.measures.score import Measure, Score

Answer = dict[str, Any]
"""What a user is told of one sample, as JSON values."""


class Answering(Protocol):
    """A deployed net of texts, as a task uses it to answer.

    Attributes:
        tokenizer: Of the net.
        max_length: Most tokens that are read of a text.
        class_names: Of the classes, where there are any.
        top: How many classes, or tokens, an answer names.
        new_tokens: Most tokens that a language model adds.
    """

    tokenizer: Any
    max_length: int
    class_names: Sequence[str]
    top: int
    new_tokens: int

    def read(self, texts: Sequence[Any], words: bool = False) -> Any:
        """Tokens: ``tensors`` by name (B, T), ``cut`` by text, and with ``words`` the ``first`` token of every word."""
        ...

    def run(self, tensors: dict[str, Tensor], /) -> Tensor:
        """What the net gives."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Tokens of what a language model is to go on with."""
        ...

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Rows of tokens as tensors, padded on the right."""
        ...


class Task(ABC):
    """A kind of answer. One object says all that is particular to it; nothing else asks for its name.

    Attributes:
        name: As in ``data.task``; of a task outside of this package its dotted path, which is written when it is found.
        target: The kind of its targets, a name in ``kd_lightning.data.targets``.
        output: The signal that is the answer.
        width: The fact of the data that says how wide an answer is; None where the net decides.
        unit: What the numbers of an answer stand for, for messages.
        rows: What is counted and compared: ``samples`` or ``tokens``.
        metrics: Choice of the group ``metrics`` that ``metrics=auto`` takes.
        supervised: Choice of the group ``method`` that learns from the labels alone; None where there are none.
        score: What arms are judged by.
        columns: What tables show of arms; those that no arm has are left out.
        classes: Whether answers are one of a few classes: then there are accuracies by class, and mistakes.
        confidence: Whether outputs are logits whose softmax says how sure the network is.
        quality_name: What ``quality`` is, in words.
        alike_name: What ``alike`` is, in words.
        head: The class of transformers that has a head for it.
        must_hold: The token of the tokenizer that a text must hold, such as ``mask_token``; or None.
        view: How the web page shows an answer: ``classes``, ``value``, ``words``, ``fill``, ``continuation`` or
            ``embedding``.
        verb: On the web page's button.
        ask: What the web page asks for.
        card: For samples of a kind (``images``, ``features``, ``text``), Hugging Face's name of the task and what a
            model is called.
    """

    name: str = ""
    target: ClassVar[str]
    output: ClassVar[str] = "logits"
    width: ClassVar[str | None] = "num_classes"
    unit: ClassVar[str] = "classes"
    rows: ClassVar[str] = "samples"
    metrics: ClassVar[str]
    supervised: ClassVar[str | None] = "ce"
    score: ClassVar[Score]
    columns: ClassVar[tuple[Measure, ...]]
    classes: ClassVar[bool] = False
    confidence: ClassVar[bool] = False
    quality_name: ClassVar[str]
    alike_name: ClassVar[str]
    head: ClassVar[str]
    must_hold: ClassVar[str | None] = None
    view: ClassVar[str]
    verb: ClassVar[str]
    ask: ClassVar[str] = "Text"
    card: ClassVar[Mapping[str, tuple[str, str]]]

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    @abstractmethod
    def measures(self, outputs: Tensor, target: Tensor) -> dict[str, float]:
        """What a net is worth by itself: outputs (N, C) beside their targets (N, ...)."""

    @abstractmethod
    def agreement(self, student: Tensor, teacher: Tensor) -> dict[str, float]:
        """How far a student's outputs (N, C) follow the teacher's (N, C)."""

    @abstractmethod
    def quality(self, outputs: Tensor, target: Tensor, exact: Tensor) -> float:
        """What an exported file is judged by, larger is better: outputs beside targets, and beside PyTorch's."""

    @abstractmethod
    def alike(self, one: Tensor, other: Tensor) -> float:
        """How alike two outputs are, 1 for the same: the number of ``agreement`` that an export is checked in."""

    def right(self, outputs: Tensor, target: Tensor) -> Tensor | None:
        """Which rows are right, (N,) bool, for a paired test over them; None where rows are not right or wrong."""
        return None

    def trivial(self, target: Tensor, width: int) -> float | None:
        """The score of the best net that looks at nothing; None where there is no such thing.

        Args:
            target: Of the split, (N, ...).
            width: Numbers of an answer.
        """
        return None

    def collapsed(self, outputs: Tensor, target: Tensor) -> bool:
        """Whether a net says the same of everything, though the targets differ: outputs (N, C), target (N, ...)."""
        return False

    def misordered(self, outputs: Tensor, target: Tensor, names: Sequence[str]) -> str | None:
        """What says that a net's numbers of an answer stand in another order than those of the targets; or None.

        Args:
            outputs: (N, C).
            target: (N, ...).
            names: Of the classes.
        """
        return None

    def say(self, outputs: Tensor, names: Sequence[str], top: int) -> list[Answer]:
        """Answers for outputs of which each row is one.

        Args:
            outputs: (B, C).
            names: Of the classes.
            top: How many are named.
        """
        raise NotImplementedError(f"task={self} has no answer in one row.")

    def answer(self, texts: Sequence[Any], net: Answering) -> list[Answer]:
        """Answers for texts; ``cut`` where only the beginning of one was read, ``error`` where there is none."""
        read = net.read(texts)
        return noting_cuts(self.say(net.run(read.tensors), net.class_names, net.top), read.cut)


def noting_cuts(answers: Sequence[Answer], cut: Sequence[bool]) -> list[Answer]:
    """Answers with ``cut`` where the text was longer than what is read."""
    return [{**answer, "cut": True} if was else answer for answer, was in zip(answers, cut, strict=True)]
