"""What is searched, and how: the configuration of the sweeper, and the search of one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from kd_lightning.tuning.space import Dimension


@dataclass
class Options:
    """The configuration of the sweeper.

    Args:
        trials: Trials of each method; those of an earlier start count.
        batch: Trials that are started together, for a launcher with several processes.
        space: What is searched of every method: temperature, weights, taps.
        params: Further settings, as sweeps of Hydra's grammar; the command line goes before.
        objectives: What the job returns, the first is shown first: validation, latency, parameters, flops, bytes.
        prune: Stop a trial that is worse than half of the earlier ones at the same epoch (one objective, job=train).
        sampler: tpe or random.
        seed: Of the sampler.
        folder: Database and winners go here.
    """

    trials: int = 20
    batch: int = 1
    space: Sequence[str] = ()
    params: dict[str, str] = field(default_factory=dict)
    objectives: Sequence[str] = ("validation",)
    prune: bool = True
    sampler: str = "tpe"
    seed: int = 0
    folder: str = "outputs/tuning"

    def __post_init__(self) -> None:
        if self.trials < 1 or self.batch < 1:
            raise ValueError(f"hydra.sweeper: trials={self.trials} and batch={self.batch} must be at least 1.")
        if self.sampler not in ("tpe", "random"):
            raise ValueError(f"hydra.sweeper.sampler={self.sampler}: choose tpe or random.")


@dataclass
class Search:
    """The search of one method.

    Attributes:
        method: Its name.
        cfg: The configuration without what is searched.
        fixed: Overrides of every trial.
        space: What is searched.
        held: Overrides that keep the teacher the same.
    """

    method: str
    cfg: DictConfig
    fixed: list[Override]
    space: list[Dimension]
    held: list[str]

    def overrides(self, params: dict[str, Any]) -> list[str]:
        """The command line of a trial."""
        found = [override for dimension in self.space for override in dimension.overrides(params[dimension.name])]
        return [*(str(one.input_line) for one in self.fixed), *self.held, *found]
