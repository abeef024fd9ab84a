"""Accuracy against size, FLOPs and latency, with the Pareto front of every panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kd_lightning.comparison.results import Arm, Comparison, Cost
from kd_lightning.measures import format as fmt
from kd_lightning.report.plots.svg import FULL, HALF, INK, Look, Plot, drawing, grid, looks, render, short, spread

Value = Callable[[Cost], float | None]
# Name in metrics.json -> label, what it is, how it is written.
COSTS: Mapping[str, tuple[str, Value, Callable[[float | None], str]]] = {
    "file_bytes": ("file size", lambda cost: cost.file_bytes, fmt.file_size),
    "parameters": ("parameters", lambda cost: cost.parameters, fmt.quantity),
    "flops": ("FLOPs per sample", lambda cost: cost.flops, fmt.quantity),
    "latency_ms_batch1": ("latency at batch 1 (ms)", lambda cost: cost.latency_ms_batch1, fmt.milliseconds),
}
CROWDED = 6  # more arms than this get fewer and larger panels


def front(points: Sequence[tuple[float, float]], sign: int = 1) -> list[int]:
    """Which of (cost, score) no other one beats: as cheap and better, or as good and cheaper; by rising cost.

    `sign` is -1 where a smaller score is the better one.
    """
    best, found = -math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if sign * points[i][1] > best:
            best = sign * points[i][1]
            found.append(i)
    return found


def fronts(comparison: Comparison) -> dict[str, list[str]]:
    """Names of the arms on the front of each cost that was measured, the cheapest first."""
    result = {}
    for key, (_, value, _) in COSTS.items():
        found = [
            (arm.name, float(x), score)
            for arm in comparison.arms
            if (x := value(arm.cost)) and math.isfinite(score := arm.metrics_mean(comparison.score.key))
        ]
        if found:
            result[key] = [found[i][0] for i in front([(x, y) for _, x, y in found], comparison.score.sign)]
    return result


def tradeoff(comparison: Comparison) -> Plot | None:
    """A panel for each cost that was measured; None where none was."""
    known = [key for key in COSTS if any(COSTS[key][1](arm.cost) for arm in _scored(comparison))]
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
            found = [(arm, float(x)) for arm in _scored(comparison) if (x := value(arm.cost))]
            _scatter(axes, comparison, found, text)
            axes.set_xlabel(name)
        for axes in panels[:, 0]:
            axes.set_ylabel(f"test {comparison.score.label}")
        return Plot(title, render(figure, title), wide=len(known) > 1)


def _scored(comparison: Comparison) -> list[Arm]:
    """Arms that have the score: a teacher has none where it is likeness to the teacher."""
    return [arm for arm in comparison.arms if math.isfinite(arm.metrics_mean(comparison.score.key))]


def _scatter(axes: Any, comparison: Comparison, found: list[tuple[Arm, float]], text: Any) -> None:
    score, look = comparison.score, looks(comparison)
    every = [summary for arm in comparison.arms if (summary := arm.summary(score.key))]
    ends = [score.scale * (one.mean + sign * (one.sd or 0)) for one in every for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    pad = max(0.25 * (high - low), 5 * 10**-score.digits)
    low, high = low - pad, high + pad
    axes.set_ylim(low, high)
    xs = [x for _, x in found]
    axes.set_xscale("log")
    margin = max((max(xs) / min(xs)) ** 0.22, 1.6)
    axes.set_xlim(min(xs) / margin, max(xs) * margin)
    least = (axes.get_xlim()[1] / axes.get_xlim()[0]) ** (0.07 if len(comparison.arms) > CROWDED else 0.2)
    ticks: list[float] = []
    for x in sorted(xs):
        if not ticks or x / ticks[-1] > least:  # labels that do not touch
            ticks.append(x)
    axes.set_xticks(ticks, [text(x) for x in ticks])
    axes.minorticks_off()
    heights = [score.scale * arm.metrics_mean(score.key) for arm, _ in found]
    if len(found) > 1:
        _draw_front(axes, list(zip(xs, heights, strict=True)), score.sign)
    for (arm, x), y in zip(found, heights, strict=True):
        style, summary = look[arm.name], arm.summary(score.key)
        axes.errorbar(x, y, yerr=score.scale * (summary.sd or 0) if summary else 0, color=style.colour, linewidth=1)
        axes.plot(x, y, style.marker, color=style.colour, markersize=6)
    grid(axes, "both")
    (_label_aside if len(comparison.arms) > CROWDED else _label_near)(axes, look, found, heights)


def _label_near(axes: Any, look: Mapping[str, Look], found: Sequence[tuple[Arm, float]], heights: list[float]) -> None:
    """Names beside their points, towards the middle and above the dashed front."""
    (low, high), (left_end, right_end) = axes.get_ylim(), axes.get_xlim()
    middle = math.sqrt(left_end * right_end)
    for left in (True, False):
        side = [i for i, (_, x) in enumerate(found) if (x <= middle) == left]
        places = spread([heights[i] for i in side], 0.085 * (high - low), low, high)
        for i, y in zip(side, places, strict=True):
            arm, x = found[i]
            axes.annotate(
                short(arm),
                (x, y),
                (7 if left else -7, 5),
                textcoords="offset points",
                va="center",
                ha="left" if left else "right",
                color=look[arm.name].colour,
                fontsize=8.5,
            )


def _label_aside(axes: Any, look: Mapping[str, Look], found: Sequence[tuple[Arm, float]], heights: list[float]) -> None:
    """Names in a column at the right, each with a thin line to its point: where there are many."""
    (low, high), (_, right) = axes.get_ylim(), axes.get_xlim()
    gap = min(0.085, 0.98 / len(found)) * (high - low)
    for (arm, x), y, place in zip(found, heights, spread(heights, gap, low, high), strict=True):
        colour = look[arm.name].colour
        axes.plot([x, right], [y, place], color=colour, linewidth=0.6, alpha=0.35, zorder=1)
        axes.annotate(
            short(arm), (1, (place - low) / (high - low)), (4, 0), "axes fraction", "offset points",
            va="center", color=colour, fontsize=8.5,
        )  # fmt: skip


def _draw_front(axes: Any, points: list[tuple[float, float]], sign: int) -> None:
    """Steps from one best point to the next: beyond them, something is cheaper and at least as good."""
    best = [points[i] for i in front(points, sign)]
    right = axes.get_xlim()[1]
    axes.step([x for x, _ in best] + [right], [y for _, y in best] + [best[-1][1]], where="post", color=INK, alpha=0.35,
              linewidth=1, linestyle=(0, (4, 3)), zorder=1)  # fmt: skip


def _title(comparison: Comparison) -> str:
    if len(comparison.arms) > 4 and (found := fronts(comparison)):
        key = "file_bytes" if "file_bytes" in found else next(iter(found))
        names = [short(name) for name in found[key]]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return f"Best for their {COSTS[key][0]}: {shown} (of {len(comparison.arms)})"
    teacher, contrast = comparison.teacher, next(iter(comparison.headlines), None)
    if teacher is None or contrast is None or teacher not in _scored(comparison):
        return f"{comparison.score.name} against size, FLOPs and latency"
    arm, score = comparison.arm(contrast.name), comparison.score
    gap, sizes = arm.metrics_mean(score.key) - teacher.metrics_mean(score.key), (arm.cost, teacher.cost)
    text = f"{short(arm)} is {score.gap(gap)} {score.gap_unit} from the teacher"
    if all(cost.parameters for cost in sizes):
        share = sizes[0].parameters / sizes[1].parameters  # type: ignore[operator]
        text += f" with {fmt.percent(share, 0 if share > 0.1 else 1)} % of its parameters"
    return text
