"""Do the terms of the loss pull the same way? Gradient norms by term, and the angle between task and distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.report.plots.curves import (
    Line,
    draw,
    label_ends,
    leading,
    lines_of,
    mean_line,
    spoken_of,
    term_panels,
    whole_numbers,
    x_axis,
)
from kd_lightning.report.plots.svg import HALF, INK, Plot, drawing, grid, looks, render, short

PREFIX = "grad/"  # of the columns that core.gradients logs
COSINE = "grad/cosine"


@dataclass(frozen=True)
class Pull:
    """Last epoch of an arm, mean over seeds: norm of the gradient by term, and the angle in degrees."""

    norms: dict[str, float]
    angle: float | None


def pull(arm: Arm) -> Pull | None:
    """None where nothing was logged."""
    last = {name: list(mean_line(found).values())[-1] for name, found in _norms(arm, "step").items()}
    angles = _angles(arm, "step")
    return Pull(last, list(mean_line(angles).values())[-1] if angles else None) if last else None


def norms(comparison: Comparison) -> Plot | None:
    """Norm of the gradient by term, a panel for each arm that has logged it; None where none has."""
    axis = x_axis(comparison)
    panels = leading([(arm, found) for arm in comparison.arms if (found := _norms(arm, axis))], comparison)
    if not panels:
        return None
    return term_panels(comparison, panels, "norm of the gradient", _norm_title(*spoken_of(panels, comparison)))


def angles(comparison: Comparison) -> Plot | None:
    """The angle between the gradients of task and distillation in every arm that has both; None where none has."""
    axis, look = x_axis(comparison), looks(comparison)
    found = [(arm, lines) for arm in comparison.arms if (lines := _angles(arm, axis))]
    if not found:
        return None
    first = next((one.name for one in comparison.headlines), None)
    arm, lines = next((one for one in found if one[0].name == first), found[0])
    title = _angle_title(arm, list(mean_line(lines).values())[-1])
    with drawing(HALF, 3.1) as figure:
        axes = figure.subplots()
        axes.axhline(90, color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "unrelated", (0.01, 90), (0, 3), ("axes fraction", "data"), "offset points", alpha=0.7, fontsize=8
        )
        ends = [draw(axes, lines, look[arm.name]) for arm, lines in found]
        most = max(y for _, lines in found for one in lines for y in one.values())
        top = 180 if most > 115 else 120
        axes.set(xlabel=axis, ylabel="angle between the gradients (degrees)", ylim=(0, top))
        axes.set_yticks(range(0, top + 1, 30))
        whole_numbers(axes)
        label_ends(axes, ends, [short(arm) for arm, _ in found], [look[arm.name].colour for arm, _ in found])
        grid(axes, "y")
        return Plot(title, render(figure, title))


def _norms(arm: Arm, axis: str) -> dict[str, list[Line]]:
    keys = sorted({key for run in arm.runs for row in run.curves for key in row if key.startswith(PREFIX)})
    keys = [key for key in keys if key != COSINE]
    return {fmt.clean(key.removeprefix(PREFIX), 16): found for key in keys if (found := lines_of(arm, key, axis))}


def _angles(arm: Arm, axis: str) -> list[Line]:
    return [{x: _degrees(y) for x, y in one.items()} for one in lines_of(arm, COSINE, axis)]


def _degrees(cosine: float) -> float:
    return math.degrees(math.acos(min(max(cosine, -1.0), 1.0)))


def _angle_title(arm: Arm, degrees: float) -> str:
    how = "pull the same way" if degrees < 75 else "are unrelated" if degrees <= 105 else "pull against each other"
    return f"Task and distillation {how} at the end in {short(arm)}: {degrees:.0f}° apart"


def _norm_title(arm: Arm, found: dict[str, list[Line]]) -> str:
    """The strongest against the weakest term of an arm, at the end."""
    last = {name: list(mean_line(lines).values())[-1] for name, lines in found.items()}
    strong, weak = max(last, key=last.__getitem__), min(last, key=last.__getitem__)
    if strong == weak or last[weak] <= 0:
        return "Gradient norm by term of the loss"
    ratio = fmt.quantity(last[strong] / last[weak], 2)
    return f"{short(arm)}: at the end the gradient of ‘{strong}’ is {ratio} times that of ‘{weak}’"
