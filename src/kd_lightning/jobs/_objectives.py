"""What a training is worth to a sweeper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.data.module import KDDataModule
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


def objectives(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value | list[Value]:
    """One value, or a list where several are asked for; the test split has no part in them.

    Args:
        cfg: ``tune.objectives`` names them.
        arm: The finished training.
        data: Its data.
    """
    values = [OBJECTIVES[name](cfg, arm, data) for name in cfg.tune.objectives]
    return values[0] if len(values) == 1 else values


def _validation(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value:
    value: Value = arm.record["validation"][cfg.metrics.monitor]
    return value


def _latency(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value:
    return latency(arm.net, data.ready(next(iter(data.loader("train"))))["image"], 1)


def _parameters(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value:
    return float(count_parameters(arm.net))


def _flops(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value:
    return float(flops(arm.net, data.ready(next(iter(data.loader("train"))))["image"]))


def _bytes(cfg: DictConfig, arm: FittedArm, data: KDDataModule) -> Value:
    return float((Path(arm.folder) / "student.safetensors").stat().st_size)


OBJECTIVES: dict[str, Callable[[DictConfig, FittedArm, KDDataModule], Value]] = {
    "validation": _validation,
    "latency": _latency,
    "parameters": _parameters,
    "flops": _flops,
    "bytes": _bytes,
}
