"""From a composed configuration to a running job: what the user sees first, and what they see when it fails."""

from __future__ import annotations

import importlib
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kd_lightning import __version__
from kd_lightning.explain import near
from kd_lightning.runs import fingerprint, is_main_process, owner, read_status, write_status

log = logging.getLogger("kd_lightning")

JOBS = Path(__file__).parent / "jobs"


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


class UserAbortError(Exception):
    """The run was stopped from outside: Ctrl-C (130) or SIGTERM (143)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def job_names() -> list[str]:
    """Every job: the public modules of kd_lightning.jobs that have a ``run``."""
    return sorted(p.stem for p in JOBS.glob("*.py") if not p.stem.startswith("_"))


def check(cfg: DictConfig) -> None:
    """Refuse what cannot run, before anything heavy is imported.

    Raises:
        ValueError: For an unknown job, a bad choice, or a sweep with subprocess DDP.
    """
    if cfg.job not in job_names():
        raise ValueError(f"Unknown job '{cfg.job}'. {near(cfg.job, job_names())}")
    if cfg.select not in ("best", "last"):
        raise ValueError(f"select={cfg.select}: choose best (on validation) or last.")
    if cfg.protocol not in ("validation", "paper"):
        raise ValueError(f"protocol={cfg.protocol}: choose validation, or paper (also shows the best epoch on test).")
    if cfg.protocol == "paper" and cfg.trainer.ema is not None:
        raise ValueError("protocol=paper looks at the test split after every epoch, which trainer.ema does not allow.")
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and str(cfg.trainer.strategy) in ("ddp", "fsdp"):
        raise ValueError(
            f"A sweep (-m) with trainer.strategy={cfg.trainer.strategy} would start the whole sweep again in every"
            " process. Use trainer=ddp_spawn, or a process launcher (hydra/launcher=submitit_slurm)."
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


def launch(cfg: DictConfig) -> Any:
    """Run the job of a composed configuration in Hydra's output folder.

    Returns:
        What the job returns; the pipeline's is the value a sweeper optimises.
    """
    check(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not is_main_process():  # started by Lightning's DDP launcher: the first process speaks for all
        log.setLevel(logging.ERROR)
        quieten()
        return importlib.import_module(f"kd_lightning.jobs.{cfg.job}").run(cfg, folder)
    log.info(f"kd_lightning {__version__} · {cfg.job} · {cfg.name} → {_short(folder)}")
    before = read_status(folder)
    if cfg.resume == "auto" and before.get("state") == "finished":
        log.info("This run is finished already: nothing to do.")
        return before.get("result")
    if before:
        log.info("Going on with an unfinished run.")
    elif cfg.resume == "auto":
        log.info("No unfinished run of this configuration: starting a new one.")
    log.info("Loading PyTorch and Lightning ...")
    started = time.perf_counter()
    quieten()
    write_status(folder, state="running", job=cfg.job, fingerprint=fingerprint(cfg), **owner())
    try:
        result = importlib.import_module(f"kd_lightning.jobs.{cfg.job}").run(cfg, folder)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, UserAbortError))
        _try_status(folder, state="interrupted" if interrupted else "failed", error=f"{type(error).__name__}: {error}")
        raise
    seconds = time.perf_counter() - started
    write_status(folder, state="finished", seconds=round(seconds, 1), result=_plain(result), error=None)
    log.info(f"Done in {seconds:.0f} s. Everything is in {_short(folder)}")
    return result


def _try_status(folder: Path, **changes: Any) -> None:
    """Write the state while something else has failed: a full disk must not hide the first error."""
    try:
        write_status(folder, **changes)
    except OSError:
        log.warning(f"Could not write {folder / 'status.json'}.")


def _plain(result: Any) -> Any:
    """The result where JSON can say it."""
    return result if isinstance(result, (int, float, str)) else None


def _short(folder: Path) -> str:
    """Relative to the current folder where possible."""
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
