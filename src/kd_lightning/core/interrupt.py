"""Ctrl-C and SIGTERM leave a checkpoint from which training goes on exactly."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kd_lightning.core.checkpoints import INEXACT
from kd_lightning.core.distiller import NonFiniteLossError


class InterruptCheckpoint(OnExceptionCheckpoint):
    """Saves the state when training is stopped from outside or by an error.

    Ctrl-C and SIGTERM wait for the end of the step of the optimiser, over all batches that are accumulated for it, and
    for a validation that is due after it: a state from between cannot be gone on from exactly. A second Ctrl-C stops at
    once, and saves nothing where that is between; the last checkpoint is the one to go on from. An error within a step
    leaves a state that says it is not exact. After a loss that is not finite nothing is saved: the last checkpoint is
    the good one. Nor before the training has begun: of one that is resumed the state is not there yet, and its start
    would be saved.

    Args:
        dirpath: Folder of the checkpoint.
        filename: Its name, without suffix.
    """

    def __init__(self, dirpath: str, filename: str = "interrupted") -> None:
        super().__init__(dirpath, filename)
        self._asked: signal.Signals | None = None
        self._began = False
        self._exact = False  # whether a state saved now is one from between two steps
        self._previous: dict[signal.Signals, Any] = {}

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise KeyboardInterrupt
        self._asked = signal.SIGINT
        print(
            "\nStopping after this step; once more Ctrl-C stops at once, and loses what no checkpoint has.", flush=True
        )

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._asked = signal.SIGTERM

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was to be restored is; listen, where this is the main thread (others cannot).

        Of several processes the first hears SIGTERM and tells the others, as Lightning has it.
        """
        self._began = True
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)
            if trainer.world_size == 1:
                if trainer.received_sigterm:  # while it was restored
                    self._asked = signal.SIGTERM
                    trainer._signal_connector.received_sigterm = False
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_terminate)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """A step has begun."""
        self._exact = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Where the step of the optimiser is over, the stop happens.

        Not after the last step of an epoch, nor before another validation: a resumed run would leave that out.
        """
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches or _validates(trainer, batch_idx):
            return
        self._exact = True
        self._stop(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, except before the start, after a loss that is not finite, and where somebody was in a hurry."""
        self._restore()
        if not self._began or isinstance(exception, NonFiniteLossError):
            return
        if self._exact or not isinstance(exception, KeyboardInterrupt):
            super().on_exception(trainer, pl_module, exception)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say of a state from within a step that it is one."""
        if trainer.state.status == "interrupted" and not self._exact:
            checkpoint[INEXACT] = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop listening; who asked during the last epoch's end is heard here."""
        self._restore()
        self._exact = True
        self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        """What was asked for happens."""
        if self._asked == signal.SIGTERM:
            trainer._signal_connector.received_sigterm = True  # by which the exit code is chosen
            raise SIGTERMException
        if self._asked is not None:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def _validates(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation is due after a batch that is not the last of its epoch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or not isinstance(every, int):
        return False
    if trainer.check_val_every_n_epoch is None:
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % trainer.check_val_every_n_epoch == 0 and (batch_idx + 1) % every == 0
