"""Working off the trainings of an experiment, in this process or in several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log

from kd_lightning.config.explain import explain
from kd_lightning.config.schema import Config
from kd_lightning.core.abort import UserAbortError
from kd_lightning.core.quiet import quieten
from kd_lightning.experiment.experiment import Experiment
from kd_lightning.files.alive import owner
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.runs import read_status, register_resolvers, write_status
from kd_lightning.training.fit import fit
from kd_lightning.training.store import Store
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")


def cells(experiment: Experiment) -> Store:
    """Where the trainings of a study lie, by content: any study that asks for the same finds them."""
    folder = Path(experiment.settled.settings.study.folder) / "cells"
    return Store(folder, lambda one: f"{one.settings.method.name}-{one.settings.seed}-{one.identity}")


def work(experiment: Experiment) -> None:
    """Train what nobody has trained; what another process is at is left to it, and waited for.

    A training that fails is noted in its folder and does not stop the others.
    """
    store = cells(experiment)
    for wait in (False, True):
        for _, training in experiment.trainings:
            if store.find(training) is not None or (wait and _failed(store, training)):
                continue
            with store.held(training, wait) as mine:
                if mine and store.find(training) is None and not (wait and _failed(store, training)):
                    _train(training, store, experiment)


def finished(experiment: Experiment) -> dict[str, list[Artifact]]:
    """Recipe's name -> what its trainings left, of those that are finished."""
    store, found = cells(experiment), dict[str, list[Artifact]]()
    for recipe in experiment.recipes:
        every = [store.find(training) for one, training in experiment.trainings if one is recipe]
        if there := [artifact for artifact in every if artifact is not None]:
            found[recipe.name] = there
    return found


def failures(experiment: Experiment) -> dict[str, str]:
    """The trainings that are not finished, and why."""
    store = cells(experiment)
    left = [training for _, training in experiment.trainings if store.find(training) is None]
    return {t.label: str(read_status(store.place(t)).get("error") or "its process ended") for t in left}


def _failed(store: Store, training: Training) -> bool:
    return read_status(store.place(training)).get("state") == "failed"


def _train(training: Training, store: Store, experiment: Experiment) -> None:
    place = store.place(training)
    left = sum(bool(one.frozen) and store.find(one) is None for _, one in experiment.trainings)
    write_status(place, state="running", error=None, student=".", **owner())
    try:
        fit(training, place, trainings=max(1, left))
    except UserAbortError:
        write_status(place, state="interrupted")
        raise
    except Exception as error:
        message = explain(error) or "".join(traceback.format_exception(error))
        write_status(place, state="failed", error=message)
        log.error(f"{training.label}: {message}")
    else:
        write_status(place, state="finished")


# -- several processes -----------------------------------------------------------------------------------------------


def work_in_processes(settings: Config, open_again: Callable[[], Experiment]) -> None:
    """``study.workers`` processes on this machine share the trainings; each takes a GPU of its own where there are
    several.

    Args:
        settings: ``study`` and ``trainer`` of the command.
        open_again: Opens the experiment in a process, without progress bars; can be pickled.

    Raises:
        UserAbortError: Stopped from outside; the processes have saved their checkpoints.
    """
    import torch

    gpus = torch.cuda.device_count() if settings.trainer.accelerator in ("auto", "gpu", "cuda") else 0
    context = multiprocessing.get_context("spawn")
    hydra_cfg = HydraConfig.instance().cfg
    processes = [
        context.Process(
            target=_process, args=(number, _gpu(number, gpus), settings.study.workers, hydra_cfg, open_again)
        )
        for number in range(settings.study.workers)
    ]
    with _sigterm_raises():
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        except BaseException as stop:
            # Ctrl-C in a terminal reaches them too; they stop by themselves after their step.
            _end([p for p in processes if p.pid is not None], patience=30 if isinstance(stop, KeyboardInterrupt) else 0)
            raise
    stopped = [process.exitcode for process in processes if process.exitcode in (130, 143)]
    if stopped:
        raise UserAbortError("Stopped. The same command goes on with the study.", stopped[0])


def _end(processes: Sequence[BaseProcess], patience: float) -> None:
    """Stop processes; those that train save a checkpoint first."""
    until = time.monotonic() + patience
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join()


def _gpu(number: int, count: int) -> str | None:
    """The GPU of a process, by its name in CUDA_VISIBLE_DEVICES; None where there is nothing to choose."""
    if count < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    return names[number % count]


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the block with an exception, so that the processes are stopped too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise UserAbortError("Stopped. The same command goes on with the study.", 143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _process(number: int, gpu: str | None, workers: int, hydra_cfg: Any, open_again: Callable[[], Experiment]) -> None:
    """One of several processes: opens the study for itself and works."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    register_resolvers()
    HydraConfig.instance().cfg = hydra_cfg
    configure_log(hydra_cfg.hydra.job_logging, hydra_cfg.hydra.verbose)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"[{number}] %(message)s"))
    quieten()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    try:
        work(open_again())
    except UserAbortError as abort:
        sys.exit(abort.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        log.error(explain(error) or "".join(traceback.format_exception(error)))
        sys.exit(1)
