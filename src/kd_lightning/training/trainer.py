"""Lightning's Trainer with the configured callbacks and loggers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf

from kd_lightning.config.schema import Config
from kd_lightning.core.checkpoints import WholeCheckpoints
from kd_lightning.core.course import Course
from kd_lightning.core.speed import NoProfiler, keep_memory
from kd_lightning.core.watch import Watch
from kd_lightning.files.artifact import Part

# Options of ours beside Lightning's.
OURS = ("channels_last", "ema")


def build_trainer(settings: Config, folder: Path, label: str, kind: Part) -> pl.Trainer:
    """The Trainer; a CSV log is always written.

    Args:
        settings: Of the training, with a precision that is decided.
        folder: Checkpoints and logs go there.
        label: What loggers call the training.
        kind: What its net is in a comparison.
    """
    options = {key: value for key, value in vars(settings.trainer).items() if key not in OURS}
    callbacks = [
        instantiate(with_defaults(node, dirpath=str(folder / "checkpoints")))
        for name, node in settings.callbacks.items()
        if node is not None and (name != "progress_bar" or settings.trainer.enable_progress_bar)
    ]
    callbacks += [Watch(), Course()]
    if settings.trainer.ema is not None:
        callbacks.append(pl.callbacks.EMAWeightAveraging(decay=settings.trainer.ema))
    if settings.method.stages and options["strategy"] in ("ddp", "ddp_spawn"):
        options["strategy"] += "_find_unused_parameters_true"  # a stage leaves out parts of the student
    keep_memory()
    loggers = [CSVLogger(folder, name="logs"), *build_loggers(settings, folder, label, kind.value)]
    try:
        return pl.Trainer(
            **options,
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=str(folder),
            profiler=NoProfiler(),
            plugins=[WholeCheckpoints()],
            use_distributed_sampler=False,  # the sampler of the data knows ranks itself
        )
    except TypeError as error:  # of a value, such as devices=many
        raise ValueError(f"Lightning does not take what is set under trainer: {error}") from error


def build_loggers(settings: Config, folder: Path, name: str, kind: str) -> list[Any]:
    """The configured loggers; they take of name, group, job_type, config and save_dir what they know."""
    told_by = {
        "kind": kind,
        "model": settings.student.name,
        "method": settings.method.name,
        "data": settings.data["name"],
        "seed": settings.seed,
    }
    # wandb writes from a process of its own, which keeps the working folder of its start: a relative path is not ours.
    known = {
        "save_dir": str(folder.absolute()),
        "name": name,
        "job_type": kind,
        "group": run_name(folder),
        "config": told_by,
    }
    return [instantiate(with_defaults(node, **known)) for node in settings.logger.values() if node is not None]


def run_name(folder: Path) -> str:
    """What the arms of one pipeline have in common: the run's folder, or where nobody runs under Hydra, the arm's."""
    if not HydraConfig.initialized() or OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        return folder.name
    return Path(HydraConfig.get().runtime.output_dir).name


def with_defaults(node: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """The node with these arguments where its target takes them and it does not set them itself.

    Raises:
        ValueError: It names no target.
    """
    if "_target_" not in node:
        raise ValueError(f"A callback or logger needs a _target_, the class that it is of: {dict(node)} has none.")
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    return {**node, **{k: v for k, v in defaults.items() if k in parameters and node.get(k) is None}}
