"""What a training is worth to a sweeper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from kd_lightning.data.base import SplitDataModule
from kd_lightning.explain import near
from kd_lightning.jobs._arm import FittedArm
from kd_lightning.report.measure import count_parameters, flops, latency

Value = float | None


def check_objectives(cfg: DictConfig) -> None:
    """Refuse what is no objective before anything is trained.

    Raises:
        ValueError: Names it, and those that there are.
    """
    for name in cfg.tune.objectives:
        if name not in OBJECTIVES:
            raise ValueError(f"tune.objectives: unknown '{name}'. {near(str(name), list(OBJECTIVES))}")


def objectives(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value | list[Value]:
    """One value, or a list where several are asked for; the test split has no part in them.

    Args:
        cfg: ``tune.objectives`` names them.
        arm: The finished training.
        data: Its data.
    """
    values = [OBJECTIVES[name](cfg, arm, data) for name in cfg.tune.objectives]
    return values[0] if len(values) == 1 else values


def _validation(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value:
    value: Value = arm.record["validation"][cfg.metrics.monitor]
    return value


def _latency(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value:
    return latency(arm.net, _example(cfg, data), 1)


def _parameters(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value:
    return float(count_parameters(arm.net))


def _flops(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value:
    return float(flops(arm.net, _example(cfg, data)))


def _example(cfg: DictConfig, data: SplitDataModule) -> Any:
    """What the net is called with for a batch of training samples as they are."""
    return instantiate(cfg.student.call).arguments(data.ready(next(iter(data.loader("train")))))


def _bytes(cfg: DictConfig, arm: FittedArm, data: SplitDataModule) -> Value:
    return float((Path(arm.folder) / "student.safetensors").stat().st_size)


OBJECTIVES: dict[str, Callable[[DictConfig, FittedArm, SplitDataModule], Value]] = {
    "validation": _validation,
    "latency": _latency,
    "parameters": _parameters,
    "flops": _flops,
    "bytes": _bytes,
}
