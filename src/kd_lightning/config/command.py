"""A command as Hydra composed it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from omegaconf import DictConfig

from kd_lightning.config.schema import Config
from kd_lightning.config.values import settings_of


@dataclass(frozen=True)
class Command:
    """What a job is given.

    Attributes:
        raw: The composed configuration. ``experiment.settle`` reads it, since the settings of a training depend on its
            data, its seed and its method; and ``experiment.recipes``, for methods whose seed is still open.
    """

    raw: DictConfig

    @cached_property
    def settings(self) -> Config:
        """Its values as they are before any data is looked at."""
        return settings_of(self.raw)
