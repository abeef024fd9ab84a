"""Training curves: rows of Lightning's CSV log as lines, one per arm and loss term."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures import format as fmt
from kd_lightning.report.plots.svg import FULL, HALF, Look, Plot, drawing, grid, looks, render, short, spread

Line = dict[float, float]  # x -> y
Panel = tuple[Arm, dict[str, list[Line]]]  # an arm, and the lines of the seeds of each of its terms
TOTAL = "train/loss"
PANELS = 6  # arms whose terms are drawn
NOT_A_LOSS = {"top1", "top5", "accuracy", "acc", "lr", "grad_norm"}


def line(run: Artifact, key: str, axis: str) -> Line:
    """A column of the log over `axis` ('epoch', counted from 1, or 'step'); several rows at one x are averaged."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in run.curves:
        x, y = _number(row.get(axis)), _number(row.get(key))
        if x is not None and y is not None:
            found[x + (axis == "epoch")].append(y)
    return {x: sum(ys) / len(ys) for x, ys in sorted(found.items())}


def validation(comparison: Comparison) -> Plot | None:
    """The score of every arm on validation; None where no run has logged it."""
    axis, score = x_axis(comparison), comparison.score
    lines = {arm.name: lines_of(arm, f"val/{score.key}", axis) for arm in comparison.arms}
    lines = {name: found for name, found in lines.items() if found}
    if not lines:
        return None
    title, look = _validation_title(comparison, lines), looks(comparison)
    with drawing(HALF, 3.1) as figure:
        axes = figure.subplots()
        ends = []
        for name, found in lines.items():
            ends.append(draw(axes, found, look[name], scale=score.scale))
        if score.higher:
            axes.set_ylim(bottom=_floor(lines.values()))
        label_ends(axes, ends, [short(name) for name in lines], [look[name].colour for name in lines])
        axes.set(xlabel=axis, ylabel=f"validation {score.label}")
        whole_numbers(axes)
        grid(axes, "y")
        return Plot(title, render(figure, title))


def losses(comparison: Comparison) -> Plot | None:
    """Training loss and its terms, a panel for each arm that was trained here; None where nothing was logged."""
    axis = x_axis(comparison)
    panels = [(arm, _terms(arm, axis)) for arm in comparison.arms]
    panels = leading([(arm, terms) for arm, terms in panels if terms], comparison)
    if not panels:
        return None
    return term_panels(comparison, panels, "training loss (nats)", _loss_title(*spoken_of(panels, comparison)))


def leading(panels: Sequence[Panel], comparison: Comparison) -> list[Panel]:
    """Those that there is room for."""
    shown = {arm.name for arm in comparison.leading(PANELS)}
    return [panel for panel in panels if panel[0].name in shown] or list(panels[:PANELS])


def spoken_of(panels: Sequence[Panel], comparison: Comparison) -> Panel:
    """The panel that the title is about: of the judged arm, if it has one."""
    first = next((contrast.name for contrast in comparison.headlines), None)
    return next((panel for panel in panels if panel[0].name == first), panels[-1])


def term_panels(comparison: Comparison, panels: Sequence[Panel], unit: str, title: str) -> Plot:
    """A panel for each arm, in it a line for each term, told apart by dashes."""
    axis, look = x_axis(comparison), looks(comparison)
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    with drawing(FULL if across > 1 else HALF, 0.3 + 2.5 * down) as figure:
        grid_of_axes = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (arm, terms) in zip(grid_of_axes, panels, strict=False):
            dashes = ["-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2))]
            ends = [
                draw(axes, found, look[arm.name], style=dashes[min(i, 3)], faint=i > 0)
                for i, found in enumerate(terms.values())
            ]
            log_scale(axes, terms)
            label_ends(axes, ends, list(terms), [look[arm.name].colour] * len(terms))
            axes.set_title(short(arm), loc="left", fontsize=9, color=look[arm.name].colour, fontweight="bold")
            axes.set_xlabel(axis)
            whole_numbers(axes)
            if axes.get_yscale() == "linear":
                axes.locator_params(axis="y", nbins=5)
            grid(axes, "y")
        for axes in grid_of_axes[::across]:
            axes.set_ylabel(unit)
        for axes in grid_of_axes[len(panels) :]:
            axes.set_visible(False)
        return Plot(title, render(figure, title), wide=across > 1)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def x_axis(comparison: Comparison) -> str:
    """'epoch', unless no run has seen a second one."""
    runs = [run for arm in comparison.arms for run in arm.runs]
    most = max((len({row.get("epoch") for row in run.curves} - {None, ""}) for run in runs), default=0)
    return "epoch" if most > 1 else "step"


def lines_of(arm: Arm, key: str, axis: str) -> list[Line]:
    """A column of the log of every seed that has it."""
    return [found for run in arm.runs if (found := line(run, key, axis))]


def _terms(arm: Arm, axis: str) -> dict[str, list[Line]]:
    """The total first, then the terms; a term that is the whole loss says nothing more."""
    keys = {key for run in arm.runs for row in run.curves for key in row if key.startswith("train/")}
    names = sorted(key for key in keys if key.count("/") == 1 and not key.endswith(("_step", "_epoch")))
    names = [key for key in names if key != TOTAL and key.removeprefix("train/") not in NOT_A_LOSS]
    total = lines_of(arm, TOTAL, axis)
    found = {"total": total} if total else {}
    found |= {fmt.clean(key.removeprefix("train/"), 16): lines for key in names if (lines := lines_of(arm, key, axis))}
    if len(found) == 2 and total:
        name, only = found.popitem()
        if only != total:
            found[name] = only
    return found


def mean_line(found: Sequence[Line]) -> Line:
    """Mean over the seeds where all of them have a value."""
    shared = sorted(set.intersection(*(set(one) for one in found)))
    return {x: sum(one[x] for one in found) / len(found) for x in shared}


def draw(axes: Any, found: Sequence[Line], look: Look, scale: float = 1, style: Any = "-", faint: bool = False) -> Any:
    """Thin lines for the seeds and a bold one for their mean; returns the end of the bold one."""
    mean = mean_line(found) or found[0]
    for one in found if len(found) > 1 else []:
        axes.plot(list(one), [scale * y for y in one.values()], color=look.colour, linewidth=0.7, alpha=0.35)
    xs, ys = list(mean), [scale * y for y in mean.values()]
    width = 1.2 if faint else 1.8
    axes.plot(xs, ys, color=look.colour, linestyle=style, linewidth=width, marker=look.marker if len(xs) < 2 else None)
    return xs[-1], ys[-1]


def _floor(lines: Iterable[Sequence[Line]]) -> float:
    """Where the axis of the accuracy starts: what was reached after a sixth of the training, so that the end shows."""
    runs = [[100 * y for y in one.values()] for found in lines for one in found]
    early, top = min(ys[len(ys) // 6] for ys in runs), max(max(ys) for ys in runs)
    return max(0.0, early - 0.08 * (top - early) - 0.2)


def label_ends(axes: Any, ends: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]) -> None:
    """Names at the right of the lines, moved apart where they would overlap; they replace a legend."""
    low, high = axes.get_ylim()
    log = axes.get_yscale() == "log"
    place = [(math.log(y / low) / math.log(high / low)) if log else (y - low) / (high - low) for _, y in ends]
    for name, colour, y in zip(names, colours, spread(place, 0.075, 0.02, 0.98), strict=True):
        axes.annotate(name, (1, y), (4, 0), "axes fraction", "offset points", color=colour, va="center", fontsize=8.5)


def whole_numbers(axes: Any) -> None:
    """Epochs and steps have no fractions."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def log_scale(axes: Any, terms: dict[str, list[Line]]) -> None:
    """Logarithmic where the terms differ by more than a hundredfold."""
    values = [y for found in terms.values() for one in found for y in one.values()]
    if min(values) > 0 and max(values) / min(values) > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")  # matplotlib's own is TeX, which stays raw in our SVG
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)


def _validation_title(comparison: Comparison, lines: dict[str, list[Line]]) -> str:
    score = comparison.score
    last = {name: sum(list(one.values())[-1] for one in found) / len(found) for name, found in lines.items()}
    for contrast in comparison.headlines:
        if contrast.name in last and contrast.reference in last:
            difference = last[contrast.name] - last[contrast.reference]
            where = "above" if difference > 0 else "below"
            level = score.scale * abs(difference) < 0.5 * 10**-score.digits
            gap = "level with" if level else f"{score.size(difference)} {score.gap_unit} {where}"
            return f"{short(contrast.name)} ends {gap} {short(contrast.reference)} on validation"
    return f"Validation {score.name} during training"


def _loss_title(arm: Arm, terms: dict[str, list[Line]]) -> str:
    mean = list((mean_line(next(iter(terms.values()))) or {0.0: math.nan}).values())
    if len(mean) < 2:
        return "Training loss by term"
    verb = "falls" if mean[-1] < mean[0] else "rises"
    return f"The loss of {short(arm)} {verb} from {fmt.quantity(mean[0])} to {fmt.quantity(mean[-1])}"
