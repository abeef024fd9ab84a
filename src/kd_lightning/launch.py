"""From a composed configuration to a running job: what the user sees first, and what they see when it fails."""

from __future__ import annotations

import importlib
import logging
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kd_lightning.config.check import check
from kd_lightning.config.command import Command
from kd_lightning.config.trust import Trust, trusting
from kd_lightning.core import visible
from kd_lightning.core.abort import UserAbortError
from kd_lightning.core.quiet import quieten
from kd_lightning.core.ranks import is_main_process
from kd_lightning.files.alive import beating, owner
from kd_lightning.files.lock import in_use
from kd_lightning.files.runs import STATUS, fingerprint, read_status, write_status
from kd_lightning.version import __version__

log = logging.getLogger("kd_lightning")


def launch(cfg: DictConfig) -> Any:
    """Run the job of a composed configuration in Hydra's output folder.

    Returns:
        What the job returns; the pipeline's is the value a sweeper optimises.
    """
    check(cfg)
    visible.install()
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    with trusting(Trust.of_command(content)):
        return _launch(Command(cfg), Path(HydraConfig.get().runtime.output_dir))


def _launch(command: Command, folder: Path) -> Any:
    job = command.raw.job
    if not is_main_process():  # started by Lightning's DDP launcher: the first process speaks for all
        log.setLevel(logging.ERROR)
        quieten()
        return importlib.import_module(f"kd_lightning.jobs.{job}").run(command, folder)
    with in_use(folder) as mine:
        if not mine:
            raise ValueError(
                f"{_short(folder)} is in use by another command, which still runs. Wait for it, or give this one a"
                " folder of its own: hydra.run.dir=outputs/<another>."
            )
        return _run(command, folder)


def _run(command: Command, folder: Path) -> Any:
    """The job in its folder, with its state written there."""
    cfg = command.raw
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
        with beating(folder / STATUS):
            result = importlib.import_module(f"kd_lightning.jobs.{cfg.job}").run(command, folder)
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
