"""Working off the cells of a study, in this process or in several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from kd_lightning.explain import explain
from kd_lightning.jobs._arm import fit_arm
from kd_lightning.jobs._lock import exclusive
from kd_lightning.jobs._study import Cell, Recipe, Study, open_study
from kd_lightning.launch import UserAbortError, quieten
from kd_lightning.runs import is_main_process, owner, read_status, register_resolvers, write_status

log = logging.getLogger("kd_lightning")


def work(study: Study) -> None:
    """Train every cell that nobody has trained; those that another process is at are left to it, and waited for.

    A cell that fails is noted in its folder and does not stop the others.
    """
    for wait in (False, True):
        for cell in study.cells:
            if cell.done or (wait and _failed(cell)):
                continue
            if not is_main_process():  # a rank of a distributed training follows its first
                _train(cell, study)
                continue
            with exclusive(cell.lock, wait, f"{cell.label}: another process is training it; waiting ...") as mine:
                if mine and not cell.done and not (wait and _failed(cell)):
                    _train(cell, study)


def failures(study: Study) -> dict[str, str]:
    """The cells that are not finished, and why."""
    left = [cell for cell in study.cells if not cell.done]
    return {cell.label: str(read_status(cell.folder).get("error") or "its process ended") for cell in left}


def _failed(cell: Cell) -> bool:
    return read_status(cell.folder).get("state") == "failed"


def _train(cell: Cell, study: Study) -> None:
    teacher = study.teacher if cell.taught else None
    left = sum(other.taught and not other.done for other in study.cells)
    write_status(cell.folder, state="running", error=None, student=".", **owner())
    kind = "distilled" if cell.taught else "alone"
    try:
        fit_arm(cell.cfg, cell.folder, study.data, teacher, cell.label, kind, trainings=max(1, left))
    except UserAbortError:
        write_status(cell.folder, state="interrupted")
        raise
    except Exception as error:
        message = explain(error) or "".join(traceback.format_exception(error))
        write_status(cell.folder, state="failed", error=message)
        log.error(f"{cell.label}: {message}")
    else:
        write_status(cell.folder, state="finished")


# -- several processes -----------------------------------------------------------------------------------------------


def work_in_processes(cfg: DictConfig, recipes: list[Recipe]) -> None:
    """``study.workers`` processes on this machine share the cells; each takes a GPU of its own where there are several.

    Raises:
        UserAbortError: Stopped from outside; the processes have saved their checkpoints.
    """
    import torch

    gpus = torch.cuda.device_count() if cfg.trainer.accelerator in ("auto", "gpu", "cuda") else 0
    context = multiprocessing.get_context("spawn")
    hydra_cfg = HydraConfig.instance().cfg
    cfg.trainer.enable_progress_bar = False  # bars of several processes overwrite each other
    processes = [
        context.Process(target=_process, args=(number, _gpu(number, gpus), cfg, hydra_cfg, recipes))
        for number in range(cfg.study.workers)
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


def _process(number: int, gpu: str | None, cfg: DictConfig, hydra_cfg: Any, recipes: list[Recipe]) -> None:
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
    torch.set_num_threads(max(1, torch.get_num_threads() // cfg.study.workers))
    try:
        work(open_study(cfg, recipes))
    except UserAbortError as abort:
        sys.exit(abort.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        log.error(explain(error) or "".join(traceback.format_exception(error)))
        sys.exit(1)
