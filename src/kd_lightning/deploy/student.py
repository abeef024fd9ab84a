"""An exported student, ready to answer for pictures or texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_lightning.data.images.preprocess import apply_preprocessing
from kd_lightning.deploy.folder import TOKENIZER, exported_file, read_preprocessing
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.deploy.inputs import Inputs
from kd_lightning.deploy.outputs import task_of
from kd_lightning.deploy.texts import Text, TextModel, TextReader

if TYPE_CHECKING:
    from PIL.Image import Image


class ExportedStudent:
    """A student from its export folder: a picture or a text in, classes with probabilities (or what it says) out.

    Args:
        folder: An export folder, or the folder of a run that has one.
        backend: Which of the exported files runs: a name in ``kd_lightning.deploy.formats.registry.FORMATS``.
        setting: What the user set, for errors.

    Raises:
        FileNotFoundError: There is no export, or not in this format.
        ValueError: There is no such format, a file was changed, or it runs code and was made elsewhere.
    """

    def __init__(self, folder: str | Path, backend: str = "onnx", setting: str = "backend") -> None:
        path = exported_file(folder, backend, setting)
        self.folder, self.backend = path.parent, backend
        self.preprocessing = read_preprocessing(self.folder)
        self.task = task_of(self.preprocessing)
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
        return [answer["classes"] for answer in self.say(images, top)]

    def say(self, images: Inputs, top: int = 3) -> list[dict[str, Any]]:
        """What the student says of each sample, by its task: ``classes``, ``value`` ..."""
        return self.task.say(self.run(images), self.preprocessing["class_names"], top)

    def answer(self, texts: Sequence[Text], top: int = 3, new_tokens: int = 40) -> list[dict[str, Any]]:
        """What the student says of each text, by its task.

        Args:
            texts: B texts; pairs of them where the student compares two.
            top: How many classes, or tokens for a mask, are named.
            new_tokens: Most tokens that a language model adds.

        Returns:
            As ``answer`` of its task, see ``kd_lightning.tasks``.

        Raises:
            ValueError: The student takes pictures, or other texts.
        """
        if self.reader is None:
            raise ValueError("This student takes pictures, not texts.")
        return TextModel(self.run, self.reader, self.preprocessing, top, new_tokens).answer(texts)
