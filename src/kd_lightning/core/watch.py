"""What runs beside the trainings of a command and may stop them: asked after every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import lightning.pytorch as pl

_ASKED: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("asked", default=())


@contextmanager
def watching(ask: Callable[[], None]) -> Iterator[None]:
    """Inside, every training asks this after each of its batches.

    Args:
        ask: Takes next to no time; raises where the training is to stop.
    """
    token = _ASKED.set((*_ASKED.get(), ask))
    try:
        yield
    finally:
        _ASKED.reset(token)


class Watch(pl.Callback):
    """Asks what :func:`watching` has named."""

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Raises what is raised there."""
        for ask in _ASKED.get():
            ask()
