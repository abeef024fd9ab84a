"""Where in the network the student says what the teacher says: linear CKA by layer as a picture per arm."""

from __future__ import annotations

import math

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.measures.similarity import Similarity
from kd_lightning.report.plots.heatmap import Cell, heatmap
from kd_lightning.report.plots.svg import Plot, short

PICTURES = 4


def similarity_of(arm: Arm) -> Similarity | None:
    """Mean over the seeds that have the same layers as the first; None where none was measured."""
    found = [run.similarity for run in arm.runs if run.similarity is not None]
    found = [one for one in found if (one.teacher, one.student) == (found[0].teacher, found[0].student)]
    if not found:
        return None
    values = [
        [sum(cells) / len(cells) for cells in zip(*rows, strict=True)]
        for rows in zip(*(one.values for one in found), strict=True)
    ]
    return Similarity(found[0].teacher, found[0].student, values)


def last_layer(similarity: Similarity) -> float:
    """CKA of the last layers: what the two classifiers see."""
    return similarity.values[-1][-1]


def alike(comparison: Comparison) -> list[Plot]:
    """A matrix for each of the first arms: layers of the teacher downwards, of the student across."""
    found = [(arm, one) for arm in comparison.arms if (one := similarity_of(arm)) is not None]
    return [_picture(arm, one) for arm, one in found if not arm.teaches][:PICTURES]


def _picture(arm: Arm, one: Similarity) -> Plot:
    title = f"{short(arm)} and the teacher: {last_layer(one):.2f} at the last layer"
    if arm.collapsed:  # near or not, it has learnt nothing
        title = f"{short(arm)} has collapsed: one answer for the whole test split"
    cells = [[_cell(value) for value in row] for row in one.values]
    rows, columns = ([fmt.clean(name, 20) for name in names] for names in (one.teacher, one.student))
    return Plot(title, heatmap(cells, rows, columns, "layer of the teacher", f"layer of {short(arm)}", title))


def _cell(value: float) -> Cell:
    """The colour is the square: most values lie near 1, and differ there."""
    return Cell(0, "blue", fmt.DASH) if math.isnan(value) else Cell(value**2, "blue", f"{value:.2f}")
