"""Anatomy of a network that no rule knows: from one forward pass, and from its last linear layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from kd_lightning.core.asked import ask
from kd_lightning.models.anatomy.places import Anatomy


@dataclass(frozen=True)
class Step:
    """One call of a submodule, in the order in which calls end; the areas are H * W, 0 for anything but maps."""

    path: str
    module: nn.Module
    area_in: int
    area_out: int
    dims_out: int


def is_classifier(module: nn.Module) -> bool:
    """A linear layer that is called as a module (the projection inside ``nn.MultiheadAttention`` is not)."""
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def last_linear(net: nn.Module) -> dict[str, str]:
    """Head and embedding by the last linear layer registered; empty without one."""
    paths = [path for path, module in net.named_modules() if path and is_classifier(module)]
    return {"head": paths[-1], "embedding": f"{paths[-1]}:in"} if paths else {}


def evenly(paths: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the paths, evenly spaced, the last one among them."""
    count = min(count, len(paths))
    return [paths[(k + 1) * len(paths) // count - 1] for k in range(count)]


def propose(net: nn.Module, example: Tensor | Mapping[str, Any], blocks: int) -> Anatomy:
    """Anatomy from one forward pass in eval mode."""
    steps = record(net, example)
    counts = Counter(step.path for step in steps)
    once = [step for step in steps if counts[step.path] == 1]
    linear = [step.path for step in once if is_classifier(step.module)]
    stack = _equal_blocks(net, {step.path for step in once if step.dims_out == 3})
    stages = evenly(stack, blocks) if stack else _by_resolution(once)
    leaves = [step.path for step in once if step.area_out and not list(step.module.children())]
    return Anatomy(
        stem=leaves[0] if leaves else "",
        stages=tuple(stages),
        embedding=f"{linear[-1]}:in" if linear else "",
        head=linear[-1] if linear else "",
    )


def record(net: nn.Module, example: Tensor | Mapping[str, Any]) -> list[Step]:
    """Run the network once, without gradient and in eval mode, and list the calls of its submodules."""
    steps: list[Step] = []

    def area(value: Any) -> int:
        return prod(value.shape[2:]) if isinstance(value, Tensor) and value.dim() == 4 else 0

    def listen(path: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            output = output[0] if isinstance(output, tuple) and output else output
            dims = output.dim() if isinstance(output, Tensor) else 0
            steps.append(Step(path, module, area(args[0]) if args else 0, area(output), dims))

        return module.register_forward_hook(hook)

    handles = [listen(path, module) for path, module in net.named_modules() if path]
    try:
        with evaluating(net):
            ask(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return steps


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; every module's own mode is restored."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _equal_blocks(net: nn.Module, fired: set[str]) -> list[str]:
    """The longest list of at least two children of one class that each gave tokens (B, T, D)."""
    best: list[str] = []
    for path, module in net.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(m) for m in module}) == 1:
            children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            if len(children) > max(1, len(best)) and fired.issuperset(children):
                best = children
    return best


def _by_resolution(once: list[Step]) -> list[str]:
    """The last output at each resolution, in order; not one from inside a block that halves the resolution."""
    areas = sorted({step.area_out for step in once if step.area_out > 1}, reverse=True)
    areas = areas or [1] * any(step.area_out for step in once)
    below = dict(pairwise(areas))
    by_path = {step.path: step for step in once}

    def inside_of_a_fall(step: Step) -> bool:
        parts = step.path.split(".")
        around = [by_path.get(".".join(parts[:i])) for i in range(1, len(parts))]
        return any(
            outer is not None and outer.area_in == step.area_out and outer.area_out == below.get(step.area_out)
            for outer in around
        )

    last: dict[int, str] = {}
    for step in once:
        if step.area_out in areas and not inside_of_a_fall(step):
            last[step.area_out] = step.path
    return [last[area] for area in areas if area in last]
