"""Ctrl-C and SIGTERM leave a checkpoint from which training goes on exactly."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from kd_lightning.core.distiller import NonFiniteLossError


class InterruptCheckpoint(OnExceptionCheckpoint):
    """Saves the state when training is stopped from outside or by an error.

    The first Ctrl-C waits for the end of the step, since a state from the middle of one cannot be resumed exactly; the
    second stops at once. After a loss that is not finite nothing is saved: the last checkpoint is the good one. Nor
    before the training has begun: of one that is resumed the state is not there yet, and its start would be saved.

    Args:
        dirpath: Folder of the checkpoint.
        filename: Its name, without suffix.
    """

    def __init__(self, dirpath: str, filename: str = "interrupted") -> None:
        super().__init__(dirpath, filename)
        self._asked = False
        self._began = False
        self._previous: Any = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nStopping after this step; once more Ctrl-C stops at once.", flush=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was to be restored is; listen, where this is the main thread (others cannot)."""
        self._began = True
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """The step is over: now the stop happens.

        Not after the last step of an epoch: a validation is due there, which a resumed run would leave out.
        """
        if self._asked and not trainer.is_last_batch:
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save, except before the start, and after a loss that is not finite."""
        self._restore()
        if self._began and not isinstance(exception, NonFiniteLossError):
            super().on_exception(trainer, pl_module, exception)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop listening; who asked during the last epoch's end is heard here."""
        self._restore()
        if self._asked:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
