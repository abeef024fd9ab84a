"""An exported student, ready to answer for pictures or texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_lightning.data.preprocess import apply_preprocessing
from kd_lightning.deploy.formats import FORMATS, known_format
from kd_lightning.deploy.inputs import Inputs
from kd_lightning.deploy.texts import TextReader, continuation, embeddings, fills, labels, values

if TYPE_CHECKING:
    from PIL.Image import Image

PREPROCESSING = "preprocessing.json"
RECORD = "export.json"
TOKENIZER = "tokenizer"


class ExportedStudent:
    """A student from its export folder: a picture or a text in, classes with probabilities (or what it says) out.

    Args:
        folder: An export folder, or the folder of a run that has one.
        backend: Which of the exported files runs: a name in ``kd_lightning.deploy.formats.FORMATS``.
        setting: What the user set, for errors.

    Raises:
        FileNotFoundError: There is no export, or not in this format.
        ValueError: There is no such format.
    """

    def __init__(self, folder: str | Path, backend: str = "onnx", setting: str = "backend") -> None:
        path = exported_file(folder, backend, setting)
        self.folder, self.backend = path.parent, backend
        self.preprocessing = read_preprocessing(self.folder)
        self.run = FORMATS[backend].load(path)
        self.takes_text = self.preprocessing.get("kind") == "text"
        self.reader = TextReader(self.folder / TOKENIZER, self.preprocessing) if self.takes_text else None

    def read(self, picture: Image | str | Path) -> Tensor:
        """A picture as the network takes it, (1, C, H, W).

        Raises:
            FileNotFoundError: No such file.
            ValueError: Not a readable picture, or the student takes feature vectors.
        """
        return apply_preprocessing(picture, self.preprocessing)

    def classify(self, images: Inputs, top: int = 3) -> list[list[dict[str, Any]]]:
        """The ``top`` most probable classes of each sample, best first: ``class`` and ``probability``."""
        return top_classes(self.run(images), self.preprocessing["class_names"], top)

    def answer(self, texts: Sequence[str], top: int = 3, new_tokens: int = 40) -> list[dict[str, Any]]:
        """What the student says of each text, by its task.

        Args:
            texts: B texts.
            top: How many classes, or tokens for a mask, are named.
            new_tokens: Most tokens that a language model adds.

        Returns:
            ``classes`` (of the text, or for its first mask), ``value``, ``embedding``, ``tokens`` (pairs of token and
            class) or ``continuation``; ``error`` where a text cannot be answered.

        Raises:
            ValueError: The student takes pictures.
        """
        if self.reader is None:
            raise ValueError("This student takes pictures, not texts.")
        task = self.preprocessing["task"]
        if task == "causal_lm":
            return [{"continuation": continuation(text, self.run, self.reader, new_tokens)} for text in texts]
        inputs = self.reader(texts)
        answers = self.run(inputs)
        if task == "regression":
            return values(answers)
        if task == "embedding":
            return embeddings(answers)
        if task == "masked_lm":
            return fills(answers, inputs, top, self.reader)
        names = self.preprocessing["class_names"]
        if task == "token_classification":
            return labels(answers, inputs, names, self.reader)
        return [{"classes": classes} for classes in top_classes(answers, names, top)]


def top_classes(logits: Tensor, names: list[str], top: int) -> list[list[dict[str, Any]]]:
    """The ``top`` most probable classes of each row of logits (B, C), best first.

    Raises:
        ValueError: ``top`` is not positive.
    """
    if top < 1:
        raise ValueError(f"At least one class must be named, not {top}.")
    best = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    return [
        [{"class": names[i], "probability": round(p, 6)} for p, i in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def exported_file(folder: str | Path, backend: str, setting: str = "backend") -> Path:
    """The file of an exported student in one format; arguments and errors as for ``ExportedStudent``."""
    form = known_format(backend, f"{setting}={backend}")
    path = export_folder(folder) / form.file
    if not path.exists():
        raise FileNotFoundError(
            f"{path.parent} holds no {form.file}: write it with job=export run={folder} export.formats=[{backend}]."
        )
    return path


def read_preprocessing(export: Path) -> dict[str, Any]:
    """What preprocessing.json of an export folder says."""
    content: dict[str, Any] = json.loads((export / PREPROCESSING).read_text())
    return content


def export_folder(folder: str | Path) -> Path:
    """The export folder that is meant: the folder itself, or the one in a run.

    Raises:
        FileNotFoundError: There is none.
    """
    for candidate in (Path(folder) / "export", Path(folder)):
        if (candidate / PREPROCESSING).is_file():
            return candidate
    raise FileNotFoundError(f"{folder} holds no exported student: write one with job=export run={folder}.")
