"""Which classes are taken for which: confusion matrices, and the most confused pairs where there are many classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.report.plots.heatmap import Cell, heatmap
from kd_lightning.report.plots.svg import FULL, Plot, bars, drawing, grid, looks, render, short

MOST_CLASSES = 30  # a matrix of more is no picture any more
PAIRS = 15  # shown instead
ARMS = 3  # distilled arms that get a matrix and a difference of their own
NUMBERS = 12  # up to so many classes have their numbers in the cells


@dataclass(frozen=True)
class Pair:
    """Samples of class `target` that are taken for class `answer`: their share of the class, for every arm."""

    target: int
    answer: int
    rates: list[float]


def counts(arm: Arm) -> Tensor:
    """How many samples of each class (rows) get each answer (columns), (C, C) int64, all seeds together."""
    classes = arm.runs[0].logits.shape[1]
    total = torch.zeros(classes * classes, dtype=torch.long)
    for run in arm.runs:
        total += torch.bincount(run.target * classes + run.logits.argmax(1), minlength=classes * classes)
    return total.reshape(classes, classes)


def rates(arm: Arm) -> Tensor:
    """The same as shares of the class, (C, C); zero where the test split has no sample of it."""
    found = counts(arm).double()
    return found / found.sum(dim=1, keepdim=True).clamp(min=1)


def confused_pairs(comparison: Comparison, most: int = PAIRS) -> list[Pair]:
    """The pairs that the students confuse most, by the mean over their arms; the teacher counts where it is alone."""
    every = [rates(arm) for arm in comparison.arms]
    students = [one for one, arm in zip(every, comparison.arms, strict=True) if not arm.teaches] or every
    mean = torch.stack(students).mean(dim=0)
    mean.fill_diagonal_(0)
    values, places = mean.flatten().topk(min(most, mean.numel()))
    found = [divmod(place, len(mean)) for place, value in zip(places.tolist(), values.tolist(), strict=True) if value]
    return [Pair(row, column, [float(one[row, column]) for one in every]) for row, column in found]


def confusion(comparison: Comparison) -> list[Plot]:
    """A matrix for the teacher, the reference and the first arms, and their differences from the reference."""
    if len(comparison.class_names) > MOST_CLASSES:
        return _pairs(comparison)
    contrasts = comparison.headlines[:ARMS]
    wanted = {contrast.name for contrast in contrasts} | {one.reference for one in contrasts} | {comparison.reference}
    teacher = comparison.teacher
    arms = [arm for arm in comparison.arms if arm is teacher or arm.name in wanted or not contrasts]
    arms = arms if contrasts else arms[: ARMS + 2]
    every = {arm.name: rates(arm) for arm in arms}
    worst = max(float(_off_diagonal(one).max()) for one in every.values())
    plots = [_matrix(comparison, arm, every[arm.name], worst) for arm in arms]
    for contrast in contrasts:
        change = every[contrast.name] - every[contrast.reference]
        plots.append(_difference(comparison, contrast.name, contrast.reference, change))
    return plots


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - matrix.diag().diag()


def _matrix(comparison: Comparison, arm: Arm, values: Tensor, worst: float) -> Plot:
    """Mistakes in colour on one scale for all arms; what is right only as a number."""
    few = len(values) <= NUMBERS
    cells = [
        [
            Cell(0.12 if i == j else value / max(worst, 1e-9), "ink" if i == j else "loss", _text(value, few))
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(values.tolist())
    ]
    row, column = divmod(int(_off_diagonal(values).argmax()), len(values))
    names = _names(comparison)
    title = f"{short(arm)} makes no mistake"
    if worst_here := float(_off_diagonal(values).max()):
        title = f"{short(arm)} most often takes {names[row]} for {names[column]} ({fmt.percent(worst_here)}\u00a0%)"
    return _draw(comparison, cells, title)


def _difference(comparison: Comparison, name: str, reference: str, change: Tensor) -> Plot:
    """Green where the arm is right more often or confuses less, orange where it is the other way round."""
    few, most = len(change) <= NUMBERS, max(float(change.abs().max()), 1e-9)
    cells = [
        [
            Cell(abs(value) / most, "gain" if (value > 0) == (i == j) else "loss", _text(value, few, signed=True))
            for j, value in enumerate(row)
        ]
        for i, row in enumerate(change.tolist())
    ]
    names, wrong = _names(comparison), _off_diagonal(change)
    row, column = divmod(int(wrong.abs().argmax()), len(change))
    title = f"{short(name)} makes the same mistakes as {short(reference)}"
    if most_changed := float(wrong[row, column]):
        what = f"{short(name)} takes {names[row]} for {names[column]}"
        how = "less often" if most_changed < 0 else "more often"
        title = f"Change against {short(reference)}: {what} {how} ({fmt.points(most_changed)} points)"
    return _draw(comparison, cells, title)


def _draw(comparison: Comparison, cells: list[list[Cell]], title: str) -> Plot:
    names = _names(comparison)
    return Plot(title, heatmap(cells, names, names, "true class", "answer (% of the class)", title))


def _names(comparison: Comparison) -> list[str]:
    return [fmt.clean(name, 16) for name in comparison.class_names]


def _text(value: float, shown: bool, signed: bool = False) -> str:
    """Whole percent; nothing where it would be 0."""
    if not shown or abs(value) < 0.005:
        return ""
    return fmt.points(value, 0) if signed else fmt.percent(value, 0)


def _pairs(comparison: Comparison) -> list[Plot]:
    """The most confused pairs as bars, one of each arm."""
    found, look = confused_pairs(comparison), looks(comparison)
    if not found:
        return []
    names, first = _names(comparison), found[0]
    what = f"{names[first.target]} is taken for {names[first.answer]}"
    told = {arm.name for arm in comparison.leading(3)}
    rated = zip(comparison.arms, first.rates, strict=True)
    parts = [f"{short(arm)} {fmt.percent(rate)}\u00a0%" for arm, rate in rated if arm.name in told]
    title = f"Most confused: {what} ({', '.join(parts)})"
    arms = comparison.leading()
    with drawing(FULL, 0.75 + len(found) * min(0.45, 0.16 + 0.065 * len(arms))) as figure:
        axes = figure.subplots()
        names_shown = {arm.name for arm in arms}
        at = [i for i, arm in enumerate(comparison.arms) if arm.name in names_shown]
        bars(axes, [[pair.rates[i] for pair in found] for i in at], [look[arm.name].colour for arm in arms])
        axes.set(xlabel="share of the class (%)", xlim=(0, None), ylim=(len(found) - 0.5, -0.5))
        axes.set_yticks(range(len(found)), [f"{names[pair.target]} → {names[pair.answer]}" for pair in found])
        grid(axes, "x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return [Plot(title, render(figure, title), wide=True)]
