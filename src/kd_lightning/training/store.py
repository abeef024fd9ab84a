"""Where trainings lie by content: each is made once, whoever asks for it, and found again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from kd_lightning.core.ranks import is_main_process
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.lock import exclusive
from kd_lightning.training.fit import find, fit
from kd_lightning.training.training import Training


class Store:
    """A folder with one folder for each training.

    Args:
        root: The folder.
        named: Name of a training's folder; has the hash of what decides it.
    """

    def __init__(self, root: str | Path, named: Callable[[Training], str]) -> None:
        self.root, self._named = Path(root), named

    def place(self, training: Training) -> Path:
        """Where a training lies, or will lie."""
        return self.root / self._named(training)

    def find(self, training: Training) -> Artifact | None:
        """What a training left, where it is finished."""
        return find(self.place(training), training.identity)

    def held(self, training: Training, wait: bool = True) -> AbstractContextManager[bool]:
        """The right to train it, against other processes; says whether it was got.

        The ranks of a distributed training follow their first, which holds it for all.
        """
        if not is_main_process():
            return nullcontext(True)
        place = self.place(training)
        waiting = f"{training.label}: another process is training it; waiting ..."
        return exclusive(place.parent / f".{place.name}.lock", wait, waiting)

    def obtain(self, training: Training) -> Artifact:
        """What the training leaves, with its net: taken where it is finished, else made while others wait.

        What is finished is only read: the store may be one that this user cannot write to.
        """
        if self.find(training) is not None:
            return fit(training, self.place(training))
        with self.held(training):
            return fit(training, self.place(training))


def shared_nets(root: str | Path) -> Store:
    """The store of nets that many runs share, ``teacher.store``: teachers, and bodies of students.

    The name has the identity less the weights of frozen roles: which teacher taught a body follows from its settings.
    Whether the folder holds this very training, its record says.
    """
    return Store(root, lambda training: f"{training.learner.name}-{replace(training, frozen={}).identity}")
