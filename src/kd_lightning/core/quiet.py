"""Exporters tell of every pass they make; what matters arrives as an exception."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """No warnings, and from these loggers (``root`` for the root) errors only."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# Lightning's advice that does not apply here.
_NOISE = (
    ".*does not have many workers.*",
    ".*Experiment logs directory.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*was called without a model.*",
    ".*in eval mode at the start of training.*",  # batch norms of a refinement, frozen nets: on purpose
    ".*there is no last checkpoint available.*",
    ".*LeafSpec.* is deprecated.*",
)


def quieten() -> None:
    """One log line a fact: Lightning's loggers also have a handler of their own."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # that a new head is new, it would warn in ten lines
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).propagate = False
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # what torchao says to torch when it is imported
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
