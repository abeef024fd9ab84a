"""The product through its own configuration and job, with other loops taking turns between its steps."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning.pytorch as pl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from benchmarks.clock import Step, Times, now, synchronise, timed
from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import register
from kd_lightning.files.runs import register_resolvers

PRODUCT = "kd_lightning"


class Turns(pl.Callback):
    """Times blocks of the trainer's steps, from batch end to batch end, and lets the others run in between.

    What lies between two batch ends is all that Lightning, the Distiller, the loggers and the data cost.
    """

    def __init__(self, others: Mapping[str, Step], rounds: int, steps: int, warmup: int = 3) -> None:
        self.others, self.rounds, self.steps, self.warmup = others, rounds, steps, warmup
        self.times = Times()
        self._count = 0
        self._started: float | None = None

    @property
    def total(self) -> int:
        """Steps that the trainer has to run."""
        return self.warmup + self.rounds * self.steps

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        """The end of a step: of a block, every ``steps``."""
        self._count += 1
        done = self._count - self.warmup
        if done < 0 or done % self.steps:
            return
        synchronise()
        if self._started is None:
            for step in self.others.values():
                timed(step, 2)
        else:
            self.times.add(PRODUCT, (now() - self._started) / self.steps)
            for name, step in self.others.items():
                self.times.add(name, timed(step, self.steps))
        self._started = now()


class FitClock(pl.Callback):
    """Writes the seconds of a fit into a file, of the wall clock and of the processor.

    Args:
        path: The file, JSON: ``wall`` and ``cpu`` of the whole, ``first_wall`` and ``first_cpu`` until the end of the
            first epoch.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._started = (0.0, 0.0)
        self._first: dict[str, float] = {}

    def on_fit_start(self, *args: object) -> None:
        """Begin."""
        self._started = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, *args: object) -> None:
        """The end of the first epoch."""
        if not self._first:
            self._first = {f"first_{clock}": seconds for clock, seconds in self._passed().items()}

    def on_fit_end(self, *args: object) -> None:
        """Write."""
        self.path.write_text(json.dumps({**self._passed(), **self._first}))

    def _passed(self) -> dict[str, float]:
        wall, cpu = self._started
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


_turns: Turns | None = None


def current_turns() -> Turns:
    """The callback of the measurement that runs: what the configuration's ``_target_`` calls."""
    assert _turns is not None
    return _turns


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that these command-line arguments give."""
    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", [*overrides, "resume=never", "name=bench"])


def race(overrides: Sequence[str], others: Mapping[str, Step], rounds: int, steps: int) -> Times:
    """``job=train`` with these arguments against other loops; the teacher has its initial weights.

    Args:
        overrides: As on the command line.
        others: Name -> one training step.
        rounds: How often everyone has a turn.
        steps: Steps a turn.
    """
    global _turns
    from kd_lightning.jobs import train

    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _turns = Turns(others, rounds, steps)
    cfg = composed([*overrides, "job=train", f"trainer.max_steps={_turns.total}", "trainer.max_epochs=100000"])
    with open_dict(cfg):
        cfg.teacher.fit, cfg.teacher.check = None, "off"
        cfg.callbacks.turns = {"_target_": "benchmarks.product.current_turns"}
    with tempfile.TemporaryDirectory() as folder:
        train.run(Command(cfg), Path(folder))
    return _turns.times


def write_cache(overrides: Sequence[str]) -> tuple[float, int]:
    """``job=cache`` with these arguments; seconds, and batches of 64 that the teacher ran on."""
    from kd_lightning.jobs import cache

    cfg = composed([*overrides, "job=cache", "teacher.cache=write"])
    with open_dict(cfg):
        cfg.teacher.fit, cfg.teacher.check = None, "off"
    started = now()
    with tempfile.TemporaryDirectory() as folder:
        cache.run(Command(cfg), Path(folder))
    seconds = now() - started
    train = int(cfg.data.source.samples * (1 - cfg.data.val_fraction - cfg.data.test_fraction))
    return seconds, int(cfg.teacher.views) * max(1, round(train / 64))
