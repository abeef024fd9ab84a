"""What a training is worth to a sweeper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import instantiate

from kd_lightning.config.explain import near
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures.cost import count_parameters, flops, latency
from kd_lightning.training.nets import load_net
from kd_lightning.training.training import Training

Value = float | None


def check_objectives(names: Sequence[str]) -> None:
    """Refuse what is no objective before anything is trained.

    Raises:
        ValueError: Names it, and those that there are.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"tune.objectives: unknown '{name}'. {near(str(name), list(OBJECTIVES))}")


def objectives(training: Training, artifact: Artifact) -> Value | list[Value]:
    """One value, or a list where ``tune.objectives`` names several; the test split has no part in them."""
    values = [OBJECTIVES[name](training, artifact) for name in training.settings.tune.objectives]
    return values[0] if len(values) == 1 else values


def _validation(training: Training, artifact: Artifact) -> Value:
    value: Value = artifact.record["validation"][training.settings.metrics.monitor]
    return value


def _latency(training: Training, artifact: Artifact) -> Value:
    return latency(load_net(artifact), _example(training), 1)


def _parameters(training: Training, artifact: Artifact) -> Value:
    return float(count_parameters(load_net(artifact)))


def _flops(training: Training, artifact: Artifact) -> Value:
    return float(flops(load_net(artifact), _example(training)))


def _example(training: Training) -> Any:
    """What the net is called with for a batch of training samples as they are."""
    data = training.data
    return instantiate(training.learner.call).arguments(data.ready(next(iter(data.loader("train")))))


def _bytes(training: Training, artifact: Artifact) -> Value:
    return float(artifact.weights.stat().st_size)


OBJECTIVES: dict[str, Callable[[Training, Artifact], Value]] = {
    "validation": _validation,
    "latency": _latency,
    "parameters": _parameters,
    "flops": _flops,
    "bytes": _bytes,
}
