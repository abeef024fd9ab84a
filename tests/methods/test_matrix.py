"""Every vision method trains on three pairs of nets that know nothing of each other, taps chosen automatically."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.methods.build import OTHER_TARGETS, PAIRS, VISION, build, config, shared_data, train

# Where a method cannot work: what it says.
REFUSED = {
    ("shuffle", "fcfd"): r"FCFD runs the student's later stages .* must be its stages in order, global average pooling"
    r" .* choose another method",
    ("vit", "fcfd"): r"FCFD runs the student's later stages .* choose another method",
}
# Parameters that need not learn in two steps.
IDLE = {
    "fcfd": r"terms\.fcfd\.to_student\.",  # each step draws two of the paths
}

METHODS = [name for name in VISION if name not in OTHER_TARGETS]


def check(module: Any, idle: str | None = None, data: Any = None) -> None:
    """Two steps: finite losses; what can learn learns, what is frozen stays."""
    learnable = {name for name, p in module.named_learnable() if p.requires_grad}
    watch = train(module, data)
    assert len(watch.losses) == 2
    assert all(torch.isfinite(loss) for loss in watch.losses)
    asleep = learnable - watch.reached
    assert all(idle and re.match(idle, name) for name in asleep), f"no gradient: {sorted(asleep)}"
    assert watch.moved <= watch.changed, f"a gradient, but no step: {sorted(watch.moved - watch.changed)}"
    assert watch.changed <= watch.reached, f"a step without gradient: {sorted(watch.changed - watch.reached)}"
    assert not watch.thawed
    assert all(not role.net.training for role in module.roles.by_name.values() if not role.trainable)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", PAIRS)
def test_trains(pair: str, method: str):
    message = REFUSED.get((pair, method))
    if message is not None:
        with pytest.raises(ValueError, match=message):
            build(PAIRS[pair], method)
        return
    check(build(PAIRS[pair], method), IDLE.get(method))


def test_every_method_is_in_a_test():
    kinds = {config(PAIRS["cifar"], name).method.info["kind"] for name in METHODS}
    assert kinds == {"baseline", "response", "feature", "relation"}
    assert set(METHODS) | set(OTHER_TARGETS) == set(VISION)


def with_targets(make: Any) -> DataLoader[Any]:
    """A batch of the shared data with other targets, as a loader of one's own may give."""
    data = shared_data()
    batch = data.ready(next(iter(data.loader("train", train=True))))
    return DataLoader([{**batch, "target": make(len(batch["image"]))}], batch_size=None)


@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("multilabel_kd", lambda n: torch.arange(4 * n).reshape(n, 4).remainder(3).clamp(max=1).float()),
        ("regression_kd", lambda n: torch.linspace(-1, 1, 4 * n).reshape(n, 4)),
        ("smooth_l1", lambda n: torch.linspace(-1, 1, 4 * n).reshape(n, 4)),
    ],
)
@pytest.mark.parametrize("pair", PAIRS)
def test_trains_on_other_targets(pair: str, method: str, make: Any):
    check(build(PAIRS[pair], method), data=with_targets(make))
