"""``placement=auto`` of a frozen role: where it is best, from its measured cost on the example batch."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.cache.live import LiveRole
from kd_lightning.core.roles import Role

log = logging.getLogger("kd_lightning")

# A smaller share of the step, or a smaller gain, is not worth another precision.
SMALL_SHARE, SMALL_GAIN = 0.1, 1.25
# Largest change of the logits in a lower precision, relative to their largest magnitude.
TOLERANCE = 0.02
# What was decided for the first training of a command holds for its others: they are compared with each other.
_DECIDED: dict[tuple[object, ...], torch.dtype | None] = {}


def place_role(own: FrozenRole, learner: Role, example: dict[str, Any], cached: bool) -> None:
    """Measure the role's share of a step, say where it is best, and set its precision where a lower one is.

    Args:
        own: The role.
        learner: The one that learns.
        example: A training batch on the CPU.
        cached: Its signals come from disk already.
    """
    settings, role = own.settings, own.role
    live = LiveRole(own, {})
    key = (
        own.data.split.fingerprint,
        str(own.serving),
        str(settings.student),
        settings.method.name,
        str(live.device),
        cached,
    )
    if key in _DECIDED:
        role.precision = _DECIDED[key]
        return
    batch = {k: v.to(live.device) if isinstance(v, Tensor) else v for k, v in example.items()}
    with live:
        before = _allocated(live.device)
        seconds = _time(lambda: live.run(batch), live.device)
        memory = _peak(live.device) - before
        step = seconds + _learner_seconds(live, learner, batch)
        settled = cached or role.precision or live.autocast or seconds / step < SMALL_SHARE
        # Several processes would each measure, and might not agree.
        alone = str(settings.trainer.devices) == "1" and settings.trainer.num_nodes == 1
        lower = _lower(live, batch, seconds) if alone and not settled else None
    role.precision = _DECIDED[key] = lower or role.precision
    weights = sum(value.numel() * value.element_size() for value in role.net.state_dict().values())
    log.info(f"{own.key} placement: {_verdict(cached, lower, seconds, step, live)}")
    room = f", {memory / 1e6:,.0f} MB of work" if memory > 0 else ""
    free = _free(live.device)
    if free is not None and not cached and weights + memory > free / 2:
        log.info(
            f"{own.key} placement: its {weights / 1e6:,.0f} MB of weights{room} are more than half of the free memory:"
            f" offloaded is better. {own.key}.cache=write takes it off the device."
        )


def _verdict(cached: bool, lower: torch.dtype | None, seconds: float, step: float, live: LiveRole) -> str:
    share = seconds / step
    cost = f"it takes {1e3 * seconds:.1f} of {1e3 * step:.1f} ms ({share:.0%}) of a live step on {live.device}"
    if cached:
        return f"cached: {cost}"
    if lower is not None:
        name = str(lower).removeprefix("torch.")
        return f"live in {name}, which is faster and answers the same: in full precision {cost}"
    if share < SMALL_SHARE:
        return f"live, since {cost}"
    return f"live, though {cost}: teacher.views=K with {live.role.key}.cache=auto would take it out"


def _lower(live: LiveRole, batch: dict[str, Any], seconds: float) -> torch.dtype | None:
    """bfloat16 where it is faster and gives the same answers."""
    full = live.run(batch)["logits"].float()
    live.role.precision = torch.bfloat16
    try:
        difference = (live.run(batch)["logits"].float() - full).abs().max() / full.abs().max()
        gain = seconds / _time(lambda: live.run(batch), live.device)
    finally:
        live.role.precision = None
    return torch.bfloat16 if gain > SMALL_GAIN and float(difference) < TOLERANCE else None


def _learner_seconds(live: LiveRole, learner: Role, batch: dict[str, Any]) -> float:
    """Forward and backward of a copy: statistics and gradients of the role stay untouched."""
    net = copy.deepcopy(learner.net).to(live.device).train()

    def step() -> None:
        with live.precision():
            loss = learner.call(net, batch)["logits"].float().square().mean()
        loss.backward()

    with torch.random.fork_rng():
        return _time(step, live.device)


def _time(work: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of a few runs, after one to warm up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _free(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
