"""A frozen role with all that its answers depend on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kd_lightning.config.schema import Config, Frozen
from kd_lightning.core.roles import Role
from kd_lightning.data.base import SplitDataModule


@dataclass(frozen=True)
class FrozenRole:
    """What is decided upon: whether it runs in every step, is stored, or in which precision.

    Attributes:
        settings: Of the training.
        serving: Of the role.
        data: Prepared data.
        role: The role as it runs in a step.
        net: Its net as it was loaded, before batch norms were folded.
    """

    settings: Config
    serving: Frozen
    data: SplitDataModule
    role: Role
    net: nn.Module

    @property
    def name(self) -> str:
        """Of the role."""
        return self.role.name

    @property
    def key(self) -> str:
        """Where it is set, for messages."""
        return self.role.key
