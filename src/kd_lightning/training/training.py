"""A training: one net, one way, one seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from kd_lightning.config.identity import of_training
from kd_lightning.config.schema import Config, Role
from kd_lightning.config.values import plain
from kd_lightning.data.base import SplitDataModule
from kd_lightning.files.runs import digest
from kd_lightning.training.identity import weights_hash


@dataclass(frozen=True)
class Training:
    """Recipe, seed, data and roles: all that decides what an artifact becomes, and how it is spoken of.

    Attributes:
        settings: Everything that was set, with its seed and method. Whoever learns is ``student``, also where that is
            the teacher in its own training.
        data: Prepared data.
        teacher: The frozen net that it learns from; None where it learns from the labels alone.
        label: What the user reads.
        kind: ``teacher``, ``alone`` or ``distilled``.
    """

    settings: Config
    data: SplitDataModule
    teacher: nn.Module | None = None
    label: str = "student"
    kind: str = "distilled"

    @property
    def learner(self) -> Role:
        """How the net that learns is built and called."""
        return self.settings.student

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides the result: settings, samples, the teacher's weights."""
        weights = None if self.teacher is None else weights_hash(self.teacher)
        return digest([*of_training(plain(self.settings)), self.data.split.fingerprint, weights])
