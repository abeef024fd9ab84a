"""Choosing weights by validation, for methods of several stages: what counts is the last stage.

While an earlier stage trains the hint, the paraphraser or another part, the student's labels are not learned yet, or
its logits do not move at all; a good validation there would be luck, and waiting for a better one pointless.
"""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` that looks at validations of the method's last stage only."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the validation is the best so far."""
        if _counts(pl_module):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, where it is configured to save here."""
        if _counts(pl_module):
            super().on_train_epoch_end(trainer, pl_module)


class EarlyStopping(LightningEarlyStopping):
    """Lightning's ``EarlyStopping`` that looks at validations of the method's last stage only."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where validation has not improved for long enough."""
        if _counts(pl_module):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same, where it is configured to check here."""
        # At trainer.max_steps nothing is left to stop, and an epoch that is cut there has no validation to look at.
        if _counts(pl_module) and not 0 < trainer.max_steps <= trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)


def _counts(module: pl.LightningModule) -> bool:
    return bool(getattr(module, "in_last_stage", True))
