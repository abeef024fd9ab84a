"""A training: one net, one way, one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from kd_lightning.config.identity import of_training, of_weights
from kd_lightning.config.schema import Config, Role
from kd_lightning.config.values import plain
from kd_lightning.data.base import SplitDataModule
from kd_lightning.files.artifact import Part
from kd_lightning.files.runs import digest
from kd_lightning.training.identity import weights_hash


@dataclass(frozen=True)
class Training:
    """Recipe, seed, data and roles: all that decides what an artifact becomes, and how it is spoken of.

    Attributes:
        settings: Everything that was set, with its seed and method, and of the further roles those that it has. Whoever
            learns is ``student``, also where that is the teacher in its own training.
        data: Prepared data.
        frozen: Role -> the net that it learns from; empty where it learns from the labels alone.
        label: What the user reads.
        kind: What its net is in a comparison.
    """

    settings: Config
    data: SplitDataModule
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    label: str = "student"
    kind: Part = Part.DISTILLED

    @property
    def learner(self) -> Role:
        """How the net that learns is built and called."""
        return self.settings.student

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides the result: settings, samples, the weights of the frozen roles."""
        weights = of_weights({name: weights_hash(net) for name, net in self.frozen.items()})
        return digest([*of_training(plain(self.settings)), self.data.split.fingerprint, *weights])
