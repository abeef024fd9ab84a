"""Every picture of the report; the curves are in `curves`, the drawing of SVG in `svg`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from kd_lightning.report import curves, measure
from kd_lightning.report import format as fmt
from kd_lightning.report.balance import class_rows, finding
from kd_lightning.report.results import Comparison, Cost, Measured
from kd_lightning.report.svg import FULL, HALF, INK, Plot, drawing, grid, looks, render, short, spread

IN_TITLE = 3  # arms whose number fits into a title
FEW = 10  # samples in a bin of the reliability plot below which its accuracy is noise


def all_plots(comparison: Comparison) -> list[Plot]:
    """Those that the comparison has data for, in the order of the report."""
    made = [tradeoff(comparison), curves.validation(comparison), reliability(comparison)]
    made += [curves.losses(comparison), classes(comparison)]
    return [plot for plot in made if plot is not None]


def classes(comparison: Comparison) -> Plot:
    """Accuracy of each class as bars, and beside it the change against the reference."""
    rows, _ = class_rows(comparison)
    look, title = looks(comparison), finding(comparison)
    contrasts = [contrast for contrast in comparison.contrasts if len(contrast.class_change)]
    bars = max(len(comparison.arms), len(contrasts))
    height = 0.75 + len(rows) * min(0.45, 0.12 + 0.065 * bars)
    with drawing(FULL, height) as figure:
        widths = [1.6, 1] if contrasts else [1]
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths).ravel()
        _bars(
            panels[0],
            [[row.accuracy[i] for row in rows] for i in range(len(comparison.arms))],
            [look[arm.name].colour for arm in comparison.arms],
        )
        panels[0].set(xlabel="accuracy (%)", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
        panels[0].set_yticks(range(len(rows)), [fmt.clean(row.name, 22) for row in rows])
        if contrasts:
            names = [contrast.name for contrast in comparison.contrasts]
            values = [[row.change[names.index(contrast.name)] for row in rows] for contrast in contrasts]
            _bars(panels[1], values, [look[contrast.name].colour for contrast in contrasts])
            panels[1].axvline(0, color=INK, linewidth=0.8)
            panels[1].set_xlabel(f"change against {short(contrasts[0].reference)} (points)")
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        for axes in panels:
            grid(axes, "x")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", labeltop=len(rows) > 15)
        return Plot(title, render(figure, title), wide=True)


def _bars(axes: Any, values: list[list[float]], colours: list[str]) -> None:
    """A group of horizontal bars per row, one of each series."""
    thick = 0.78 / len(values)
    for i, (series, colour) in enumerate(zip(values, colours, strict=True)):
        where = [row + (i - (len(values) - 1) / 2) * thick for row in range(len(series))]
        axes.barh(where, [100 * value for value in series], height=thick * 0.9, color=colour)


def reliability(comparison: Comparison) -> Plot:
    """Accuracy against confidence, all seeds together; the size of a point is its share of the samples."""
    look = looks(comparison)
    parts, few = [], ""
    with drawing(HALF, 3.1) as figure:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate("calibrated", (16, 16), (0, 5), textcoords="offset points", rotation=33, alpha=0.7, fontsize=8)
        shown = {arm.name for arm in comparison.arms[:IN_TITLE]}
        for arm in comparison.arms:
            logits = torch.cat([run.logits for run in arm.arm.runs])
            found = measure.reliability_curve(logits, torch.cat([run.target for run in arm.arm.runs]))
            enough = found.share * len(logits) >= FEW
            if enough.any() and not enough.all():
                few = f", bins of {FEW} samples or more"
            else:
                enough = torch.ones_like(enough)
            x, y, share = 100 * found.confidence[enough], 100 * found.accuracy[enough], found.share[enough]
            style = look[arm.name]
            axes.plot(x, y, color=style.colour, linewidth=1.2, alpha=0.8)
            size = 6 + 120 * share
            axes.scatter(
                x, y, s=size, color=style.colour, marker=style.marker, label=short(arm), linewidths=0, zorder=3
            )
            if arm.name in shown:
                parts.append(f"{short(arm)} {fmt.with_sd(arm.summary('ece'), digits=1).split(' ')[0]} %")
        axes.set(xlabel="confidence (%)" + few, ylabel="accuracy (%)", xlim=(0, 102), ylim=(0, 103))
        legend = axes.legend(frameon=False, loc="best", handletextpad=0.3, borderaxespad=0.2)
        for handle in legend.legend_handles:
            handle.set_sizes([28])  # type: ignore[union-attr]
        grid(axes, "both")
        title = f"Calibration error: {', '.join(parts)}"
        return Plot(title, render(figure, title))


def tradeoff(comparison: Comparison) -> Plot | None:
    """Accuracy against size, FLOPs and latency, a panel for each that was measured; None where none was."""
    costs = {arm.name: arm.arm.cost for arm in comparison.arms}
    kinds: list[tuple[str, Callable[[Cost], float | None], Callable[[float | None], str]]] = [
        ("file size", lambda cost: cost.file_bytes, fmt.file_size),
        ("parameters", lambda cost: cost.parameters, fmt.quantity),
        ("FLOPs per sample", lambda cost: cost.flops, fmt.quantity),
        ("latency at batch 1", lambda cost: cost.latency_ms_batch1, lambda x: f"{fmt.milliseconds(x)} ms"),
    ]
    known = [kind for kind in kinds if any(kind[1](cost) for cost in costs.values())]
    if len(known) == 4:
        del known[1]  # the file size says the same
    if not known:
        return None
    title = _tradeoff_title(comparison)
    with drawing(FULL if len(known) > 1 else HALF, 2.7) as figure:
        panels = figure.subplots(1, len(known), sharey=True, squeeze=False).ravel()
        for axes, (name, value, text) in zip(panels, known, strict=True):
            found = [(arm, value(costs[arm.name])) for arm in comparison.arms]
            _scatter(axes, comparison, [(arm, float(x)) for arm, x in found if x], text)
            axes.set_xlabel(name)
        panels[0].set_ylabel("test top-1 (%)")
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
    for (arm, x), y in zip(found, heights, strict=True):
        style, summary = look[arm.name], arm.summary("top1")
        axes.errorbar(x, y, yerr=100 * (summary.sd or 0) if summary else 0, color=style.colour, linewidth=1)
        axes.plot(x, y, style.marker, color=style.colour, markersize=6)
    grid(axes, "both")
    middle = math.sqrt(axes.get_xlim()[0] * axes.get_xlim()[1])
    for left in (True, False):
        side = [i for i, x in enumerate(xs) if (x <= middle) == left]
        places = spread([heights[i] for i in side], 0.085 * (high - low), low, high)
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


def _tradeoff_title(comparison: Comparison) -> str:
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
