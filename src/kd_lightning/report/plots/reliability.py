"""The reliability plot: accuracy against confidence, before and after temperature scaling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.measures.reliability import reliability_curve
from kd_lightning.report.plots.svg import FULL, HALF, INK, Plot, drawing, grid, looks, render, short

IN_TITLE = 3  # arms whose number fits into a title
FEW = 10  # samples in a bin below which its accuracy is noise


def reliability(comparison: Comparison) -> Plot:
    """All seeds together; the size of a point is its share of the samples."""
    arms = comparison.leading()
    scaled = [arm for arm in arms if arm.summary("temperature")]
    title = _title(comparison)
    with drawing(FULL if scaled else HALF, 3.2) as figure:
        panels = figure.subplots(1, 2 if scaled else 1, squeeze=False).ravel()
        _draw(panels[0], comparison, {arm.name: _logits(arm) for arm in arms})
        panels[0].set_ylabel("accuracy (%)")
        if scaled:
            _draw(panels[1], comparison, {arm.name: _logits(arm, scaled=True) for arm in scaled})
            for axes, head in zip(panels, ("as trained", "after temperature scaling"), strict=True):
                axes.set_title(head, loc="left", fontsize=9, fontweight="bold")
        return Plot(title, render(figure, title), wide=bool(scaled))


def _logits(arm: Arm, scaled: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and targets of all seeds, each seed's divided by its own temperature."""
    pairs = list(zip(arm.runs, arm.metrics, strict=True))
    if scaled:
        pairs = [(run, row) for run, row in pairs if "temperature" in row]
    logits = [run.logits / (row["temperature"] if scaled else 1) for run, row in pairs]
    return torch.cat(logits), torch.cat([run.target for run, _ in pairs])


def _draw(axes: Any, comparison: Comparison, data: dict[str, tuple[Tensor, Tensor]]) -> None:
    look, few = looks(comparison), ""
    axes.plot([0, 100], [0, 100], color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate("calibrated", (16, 16), (0, 5), textcoords="offset points", rotation=33, alpha=0.7, fontsize=8)
    for name, (logits, target) in data.items():
        found = reliability_curve(logits, target)
        enough = found.share * len(logits) >= FEW
        if enough.any() and not enough.all():
            few = f", bins of {FEW} samples or more"
        else:
            enough = torch.ones_like(enough)
        x, y, share = 100 * found.confidence[enough], 100 * found.accuracy[enough], found.share[enough]
        style = look[name]
        axes.plot(x, y, color=style.colour, linewidth=1.2, alpha=0.8)
        dots = {"color": style.colour, "marker": style.marker, "linewidths": 0, "zorder": 3}
        axes.scatter(x, y, s=6 + 120 * share, label=short(name), **dots)
    axes.set(xlabel="confidence (%)" + few, xlim=(0, 102), ylim=(0, 103))
    legend = axes.legend(frameon=False, loc="best", handletextpad=0.3, borderaxespad=0.2)
    for handle in legend.legend_handles:
        handle.set_sizes([28])
    grid(axes, "both")


def _title(comparison: Comparison) -> str:
    parts = []
    for arm in comparison.leading(IN_TITLE):
        before, after = arm.summary("ece"), arm.summary("ece_calibrated")
        assert before is not None
        text = f"{short(arm)} {fmt.percent(before.mean)}\u00a0%"
        parts.append(text if after is None else f"{text} → {fmt.percent(after.mean)}\u00a0%")
    scaled = any("→" in part for part in parts)
    return f"Calibration error{' before and after temperature scaling' if scaled else ''}: {', '.join(parts)}"
