"""Refuse a misspelt argument before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from kd_lightning.config.explain import near
from kd_lightning.config.ranges import check_ranges
from kd_lightning.config.schedule import check_schedule
from kd_lightning.config.values import plain, settings_of

_INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a ``_target_``, and its path."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key], f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _targets(item, f"{path}[{i}]")


def check_targets(cfg: DictConfig) -> None:
    """Refuse a misspelt argument before anything is trained.

    Raises:
        ValueError: Where a ``_target_`` cannot be imported or does not take an argument; names both.
    """
    for path, node in _targets(cfg):
        try:
            target = get_object(node._target_)
            parameters = inspect.signature(target).parameters
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{path}: cannot import {node._target_!s}: {error}") from None
        except (TypeError, ValueError):  # built-in without a signature
            continue
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for key in set(node) - _INSTANTIATE_KEYS - set(parameters):
            raise ValueError(f"{path}: {node._target_!s} takes no argument '{key}'. {near(str(key), list(parameters))}")


JOBS = Path(__file__).parents[1] / "jobs"


def job_names() -> list[str]:
    """Every job: the public modules of kd_lightning.jobs that have a ``run``."""
    return sorted(p.stem for p in JOBS.glob("*.py") if not p.stem.startswith("_"))


def check(cfg: DictConfig) -> None:
    """Refuse what cannot run, before anything heavy is imported.

    Raises:
        ValueError: For an unknown job, a number out of its range, a bad choice, or a sweep with subprocess DDP.
    """
    if cfg.job not in job_names():
        raise ValueError(f"Unknown job '{cfg.job}'. {near(cfg.job, job_names())}")
    settings = plain(settings_of(cfg))
    check_ranges(settings)
    check_schedule(settings)
    if cfg.select not in ("best", "last"):
        raise ValueError(f"select={cfg.select}: choose best (on validation) or last.")
    if cfg.protocol not in ("validation", "paper"):
        raise ValueError(f"protocol={cfg.protocol}: choose validation, or paper (also shows the best epoch on test).")
    if cfg.protocol == "paper" and cfg.trainer.ema is not None:
        raise ValueError("protocol=paper looks at the test split after every epoch, which trainer.ema does not allow.")
    _check_seeds([cfg.seed] if cfg.seeds is None else list(cfg.seeds))
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and str(cfg.trainer.strategy) in ("ddp", "fsdp"):
        raise ValueError(
            f"A sweep (-m) with trainer.strategy={cfg.trainer.strategy} would start the whole sweep again in every"
            " process. Use trainer=ddp_spawn, or a process launcher (hydra/launcher=submitit_slurm)."
        )


def _check_seeds(seeds: list[int]) -> None:
    """Seeds pair the runs of two arms, and name their folders."""
    if not seeds:
        raise ValueError("seeds=[]: name at least one, such as seeds=[0,1,2], or leave it out for the one `seed`.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds}: each may occur once; the same seed trains the same student again.")
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ValueError(f"seeds={seeds}: a seed is a number from 0 to 4294967295.")
