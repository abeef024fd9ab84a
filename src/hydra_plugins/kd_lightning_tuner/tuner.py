"""The sweeper that ``hydra/sweeper=tune`` names; what it does is in kd_lightning.tuning."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Tuner(Sweeper):
    """Optuna behind Hydra's sweep.

    Args:
        options: Those of :class:`kd_lightning.tuning.sweep.Options`.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what a sweep needs."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search; returns the winning trial of each method."""
        from kd_lightning.tuning.sweep import Options, tune

        return tune(Options(**self.options), self.hydra_context.config_loader, self.config, self.launcher, arguments)
