"""``protocol=paper``: the test split is looked at after every epoch, as much of the literature does.

The best of these looks is an optimistic number: the epoch is chosen on the data it is judged on. It is recorded as
``best_on_test`` beside the honest ones, so that a published table can be compared with; it never chooses the weights.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from kd_lightning.core.distiller import Distiller
from kd_lightning.core.roles import Role
from kd_lightning.data.module import KDDataModule
from kd_lightning.report.measure import classification_metrics


class BestOnTest(pl.Callback):
    """Measures the student on test after every training epoch and remembers the epoch of the best top-1.

    Args:
        data: Prepared data.
    """

    def __init__(self, data: KDDataModule) -> None:
        self.data = data
        self.best: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure; the training does not notice: same modes, same random state."""
        from kd_lightning.jobs._arm import predict_logits

        assert isinstance(pl_module, Distiller)
        role = pl_module.roles.by_name["student"]
        assert isinstance(role, Role)
        modes = {module: module.training for module in role.net.modules()}
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers
            found = predict_logits(
                role.net, lambda _, batch: role(batch), self.data.loader("test", whole=True), self.data
            )
        for module, mode in modes.items():
            module.training = mode
        metrics = classification_metrics(found["logits"], found["target"], found["logits"].shape[1])
        if not self.best or metrics["top1"] > self.best["top1"]:
            self.best = {**metrics, "epoch": float(trainer.current_epoch)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {"best": dict(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best = dict(state_dict["best"])


def looks_on_test(trainer: pl.Trainer) -> dict[str, dict[str, float]]:
    """``{"best_on_test": metrics}`` under ``protocol=paper``, else nothing."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return {"best_on_test": one.best for one in callbacks if isinstance(one, BestOnTest) and one.best}  # noqa: B035
