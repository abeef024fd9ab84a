"""Trainings that many runs share, such as a teacher's: kept by content hash, made once, found again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.jobs._arm import FittedArm, arm_identity, fit_arm
from kd_lightning.jobs._lock import exclusive
from kd_lightning.runs import is_main_process
from kd_lightning.schema import Config


def laid_over(plain: dict[str, Any], fit: dict[str, Any]) -> DictConfig:
    """The configuration of a training before the main ones: a partial one laid over the whole.

    Args:
        plain: The whole configuration as plain values, with the net that learns as ``student``; changed in place.
        fit: The partial one.
    """
    plain.update(seeds=None, ckpt_path=None, protocol="validation")
    merged = OmegaConf.merge(OmegaConf.structured(Config), plain, fit)
    assert isinstance(merged, DictConfig)
    return merged


def stored_folder(own: DictConfig, data: SplitDataModule) -> Path:
    """Where the net of such a configuration lies, or will lie, in the store."""
    return Path(own.teacher.store) / f"{own.student.name}-{arm_identity(own, data, None)}"


def fit_stored(
    own: DictConfig, data: SplitDataModule, label: str, kind: str, teacher: nn.Module | None = None
) -> FittedArm:
    """Train it in its folder of the store, or take what is finished there; arguments as for ``fit_arm``."""
    folder = stored_folder(own, data)
    lock = folder.parent / f".{folder.name}.lock"
    # Jobs that start together train one net. The ranks of a distributed training follow their first.
    waiting = f"{label}: another process is training it; waiting ..."
    with exclusive(lock, waiting=waiting) if is_main_process() else nullcontext():
        return fit_arm(own, folder, data, teacher, label, kind)
