"""Every picture of the report, in sections; the drawing of SVG is in `svg` and `heatmap`."""

from __future__ import annotations

from dataclasses import dataclass, field

from kd_lightning.comparison.measured import under
from kd_lightning.comparison.results import Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.measures import robustness
from kd_lightning.report.plots import curves
from kd_lightning.report.plots.alike import alike
from kd_lightning.report.plots.balance import class_rows, finding
from kd_lightning.report.plots.confusion import MOST_CLASSES, confusion
from kd_lightning.report.plots.curves import label_ends
from kd_lightning.report.plots.gradients import angles, norms
from kd_lightning.report.plots.reliability import reliability
from kd_lightning.report.plots.svg import FULL, INK, Plot, bars, drawing, grid, looks, render, short
from kd_lightning.report.plots.tradeoff import tradeoff
from kd_lightning.report.tables import Column, main_table


@dataclass(frozen=True)
class Section:
    """Plots and measures under one heading; `key` names it for programs."""

    key: str
    heading: str
    note: str
    plots: list[Plot]
    columns: list[Column] = field(default_factory=list)
    legend: bool = True  # whether the plots speak of the arms by colour


def sections(comparison: Comparison) -> list[Section]:
    """Those that the comparison has data for, in the order of the report."""
    halves = [curves.validation(comparison), angles(comparison)]
    training = [*halves, curves.losses(comparison), norms(comparison)]
    made = [
        Section(
            "tradeoff",
            f"{comparison.score.name if not comparison.kind.classes else 'Accuracy'} and cost",
            "Of the network that is deployed; a multiply-add counts as two FLOPs. Latency is the median of one forward"
            " on the machine of this run. Dashed: the Pareto front, on which nothing cheaper is as good.",
            _some(tradeoff(comparison)),
        ),
        Section(
            "training",
            "Training",
            "Thin lines are single seeds. A gradient is that of one weighted term over the student's parameters, on the"
            " first batch of an epoch; below 90° task and distillation help each other.",
            _some(*training),
        ),
        Section(
            "calibration",
            "Confidence",
            "Is a network right as often as it is sure? Temperature scaling divides the logits by one number that is"
            " fitted on the validation split.",
            _some(reliability(comparison)) if comparison.kind.confidence else [],
        ),
        Section(
            "robustness",
            "Robustness",
            "Top-1 accuracy on test images that were made worse, the same way for every network: Gaussian noise,"
            " Gaussian blur (beyond 64 pixels in 64ths of the side), and a shift that repeats the edge.",
            _some(robust(comparison)),
        ),
        Section(
            "similarity",
            "Likeness to the teacher",
            "Rank correlation compares the order of the classes. Linear CKA compares what two layers make of the same"
            " test samples: 1 is the same up to rotation and scale, 0 unrelated.",
            alike(comparison),
            legend=False,
        ),
        Section(
            "classes",
            "Balance over the classes",
            "Does the mean hide a class that got worse? Accuracy per class, mean over seeds"
            + ("; the greatest gain first." if comparison.contrasts else "."),
            _some(classes(comparison)) if comparison.kind.classes else [],
        ),
        Section(
            "confusion",
            "Mistakes",
            "Which class is taken for which, all seeds together, as share of the true class.",
            confusion(comparison) if comparison.kind.classes else [],
            legend=len(comparison.class_names) > MOST_CLASSES,
        ),
    ]
    columns = main_table(comparison)
    for section in made:
        section.columns.extend(column for column in columns if column.group == section.key)
    return [section for section in made if section.plots or section.columns]


def all_plots(comparison: Comparison) -> list[Plot]:
    """The plots of all sections."""
    return [plot for section in sections(comparison) for plot in section.plots]


def _some(*plots: Plot | None) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def classes(comparison: Comparison) -> Plot:
    """Accuracy of each class as bars, and beside it the change against the reference."""
    rows, _ = class_rows(comparison)
    look, title = looks(comparison), finding(comparison)
    arms = comparison.leading()
    shown = {arm.name for arm in arms}
    contrasts = [one for one in comparison.contrasts if len(one.class_change) and one.name in shown]
    height = 0.75 + len(rows) * min(0.45, 0.12 + 0.065 * len(arms))
    with drawing(FULL, height) as figure:
        widths = [1.6, 1] if contrasts else [1]
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths).ravel()
        bars(
            panels[0],
            [[row.accuracy[i] for row in rows] for i, arm in enumerate(comparison.arms) if arm.name in shown],
            [look[arm.name].colour for arm in arms],
        )
        panels[0].set(xlabel="accuracy (%)", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
        panels[0].set_yticks(range(len(rows)), [fmt.clean(row.name, 22) for row in rows])
        if contrasts:
            names = [contrast.name for contrast in comparison.contrasts]
            values = [[row.change[names.index(contrast.name)] for row in rows] for contrast in contrasts]
            bars(panels[1], values, [look[contrast.name].colour for contrast in contrasts])
            panels[1].axvline(0, color=INK, linewidth=0.8)
            panels[1].set_xlabel(f"change against {short(contrasts[0].reference)} (points)")
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        for axes in panels:
            grid(axes, "x")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", labeltop=len(rows) > 15)
        return Plot(title, render(figure, title), wide=True)


def robust(comparison: Comparison) -> Plot | None:
    """Accuracy against the strength of each corruption; None where it was not measured."""
    arms = [arm for arm in comparison.arms if robustness.ROBUSTNESS.key in arm.runs[0].probes]
    if not arms:
        return None
    look, title = looks(comparison), _robust_title(comparison)
    with drawing(FULL, 3.0) as figure:
        panels = figure.subplots(1, len(robustness.STRENGTHS), sharey=True)
        for axes, (kind, strengths) in zip(panels, robustness.STRENGTHS.items(), strict=True):
            xs = [0.0, *(robustness.SCALE[kind] * strength for strength in strengths)]
            ends = []
            for arm in arms:
                ys = [100 * y for y in under(arm, kind)]
                axes.plot(xs, ys, color=look[arm.name].colour, marker=look[arm.name].marker, markersize=4)
                ends.append((xs[-1], ys[-1]))
            axes.set(xlabel=robustness.UNITS[kind], ylim=(0, 102))
            axes.set_title(kind, loc="left", fontsize=9, fontweight="bold")
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            grid(axes, "y")
            if axes is panels[-1]:
                label_ends(axes, ends, [short(arm) for arm in arms], [look[arm.name].colour for arm in arms])
        panels[0].set_ylabel("test top-1 (%)")
        return Plot(title, render(figure, title), wide=True)


def _robust_title(comparison: Comparison) -> str:
    for contrast in comparison.headlines:
        means = [comparison.arm(name).summary("corrupted_top1") for name in (contrast.name, contrast.reference)]
        if means[0] and means[1]:
            gap = means[0].mean - means[1].mean
            where = f"{fmt.percent(abs(gap))} points {'above' if gap > 0 else 'below'} {short(contrast.reference)}"
            where = where if abs(gap) >= 0.0005 else f"level with {short(contrast.reference)}"
            return f"Under corruption {short(contrast.name)} is {where}, on average over noise, blur and shift"
    return "Accuracy under noise, blur and shift"
