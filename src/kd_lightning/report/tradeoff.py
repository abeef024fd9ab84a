"""Accuracy against size, FLOPs and latency, with the Pareto front of every panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kd_lightning.report import format as fmt
from kd_lightning.report.results import Comparison, Cost, Measured
from kd_lightning.report.svg import FULL, HALF, INK, Plot, drawing, grid, looks, render, short, spread

Value = Callable[[Cost], float | None]
# Name in metrics.json -> label, what it is, how it is written.
COSTS: Mapping[str, tuple[str, Value, Callable[[float | None], str]]] = {
    "file_bytes": ("file size", lambda cost: cost.file_bytes, fmt.file_size),
    "parameters": ("parameters", lambda cost: cost.parameters, fmt.quantity),
    "flops": ("FLOPs per sample", lambda cost: cost.flops, fmt.quantity),
    "latency_ms_batch1": ("latency at batch 1 (ms)", lambda cost: cost.latency_ms_batch1, fmt.milliseconds),
}
CROWDED = 6  # more arms than this get fewer and larger panels


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, accuracy) no other one beats: as cheap and better, or as good and cheaper; by rising cost."""
    best, found = -math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def fronts(comparison: Comparison) -> dict[str, list[str]]:
    """Names of the arms on the front of each cost that was measured, the cheapest first."""
    result = {}
    for key, (_, value, _) in COSTS.items():
        found = [
            (arm.name, float(x), arm.metrics_mean("top1")) for arm in comparison.arms if (x := value(arm.arm.cost))
        ]
        if found:
            result[key] = [found[i][0] for i in front([(x, y) for _, x, y in found])]
    return result


def tradeoff(comparison: Comparison) -> Plot | None:
    """A panel for each cost that was measured; None where none was."""
    known = [key for key in COSTS if any(COSTS[key][1](arm.arm.cost) for arm in comparison.arms)]
    if len(known) == 4:
        known.remove("parameters")  # the file size says the same
    if not known:
        return None
    title = _title(comparison)
    crowded = len(comparison.arms) > CROWDED
    across = min(len(known), 1 if crowded else 3)
    down = math.ceil(len(known) / across)
    height = 2.7 if not crowded else max(3.0, 0.21 * len(comparison.arms) + 1)
    with drawing(FULL if len(known) > 1 else HALF, height * down) as figure:
        panels = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, key in zip(panels.ravel(), known, strict=False):
            name, value, text = COSTS[key]
            found = [(arm, float(x)) for arm in comparison.arms if (x := value(arm.arm.cost))]
            _scatter(axes, comparison, found, text)
            axes.set_xlabel(name)
        for axes in panels[:, 0]:
            axes.set_ylabel("test top-1 (%)")
        return Plot(title, render(figure, title), wide=len(known) > 1)


def _scatter(axes: Any, comparison: Comparison, found: list[tuple[Measured, float]], text: Any) -> None:
    look, every = looks(comparison), [summary for arm in comparison.arms if (summary := arm.summary("top1"))]
    ends = [100 * (one.mean + sign * (one.sd or 0)) for one in every for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    pad = max(0.25 * (high - low), 0.5)
    low, high = low - pad, high + pad
    axes.set_ylim(low, high)
    xs = [x for _, x in found]
    axes.set_xscale("log")
    margin = max((max(xs) / min(xs)) ** 0.22, 1.6)
    axes.set_xlim(min(xs) / margin, max(xs) * margin)
    ticks = [x for i, x in enumerate(sorted(xs)) if not i or x / sorted(xs)[i - 1] > margin**0.25]
    axes.set_xticks(ticks, [text(x) for x in ticks])
    axes.minorticks_off()
    heights = [100 * arm.metrics_mean("top1") for arm, _ in found]
    if len(found) > 1:
        _draw_front(axes, list(zip(xs, heights, strict=True)))
    for (arm, x), y in zip(found, heights, strict=True):
        style, summary = look[arm.name], arm.summary("top1")
        axes.errorbar(x, y, yerr=100 * (summary.sd or 0) if summary else 0, color=style.colour, linewidth=1)
        axes.plot(x, y, style.marker, color=style.colour, markersize=6)
    grid(axes, "both")
    gap = 0.085 * min(1.0, 9 / len(comparison.arms)) if len(comparison.arms) > CROWDED else 0.085
    middle = math.sqrt(axes.get_xlim()[0] * axes.get_xlim()[1])
    for left in (True, False):
        side = [i for i, x in enumerate(xs) if (x <= middle) == left]
        places = spread([heights[i] for i in side], gap * (high - low), low, high)
        for i, y in zip(side, places, strict=True):
            arm, x = found[i]
            axes.annotate(
                short(arm),
                (x, y),
                (7 if left else -7, 0),
                textcoords="offset points",
                va="center",
                ha="left" if left else "right",
                color=look[arm.name].colour,
                fontsize=8.5,
            )


def _draw_front(axes: Any, points: list[tuple[float, float]]) -> None:
    """Steps from one best point to the next: below and right of them, something is cheaper and at least as good."""
    best = [points[i] for i in front(points)]
    right = axes.get_xlim()[1]
    axes.step([x for x, _ in best] + [right], [y for _, y in best] + [best[-1][1]], where="post", color=INK, alpha=0.35,
              linewidth=1, linestyle=(0, (4, 3)), zorder=1)  # fmt: skip


def _title(comparison: Comparison) -> str:
    if len(comparison.arms) > 4 and (found := fronts(comparison)):
        key = "file_bytes" if "file_bytes" in found else next(iter(found))
        names = [short(name) for name in found[key]]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return f"Best for their {COSTS[key][0]}: {shown} (of {len(comparison.arms)})"
    teacher, contrast = comparison.teacher, next(iter(comparison.contrasts), None)
    if teacher is None or contrast is None:
        return "Accuracy against size, FLOPs and latency"
    arm = comparison.arm(contrast.name)
    gap, sizes = arm.metrics_mean("top1") - teacher.metrics_mean("top1"), (arm.arm.cost, teacher.arm.cost)
    text = f"{short(arm)} is {fmt.points(gap)} points from the teacher"
    if all(cost.parameters for cost in sizes):
        share = sizes[0].parameters / sizes[1].parameters  # type: ignore[operator]
        text += f" with {fmt.percent(share, 0 if share > 0.1 else 1)} % of its parameters"
    return text
