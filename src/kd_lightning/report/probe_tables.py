"""What is measured beyond the logits as rows of text: head and rows of each table, for Markdown and W&B."""

from __future__ import annotations

from kd_lightning.comparison.measured import under
from kd_lightning.comparison.results import Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.measures import robustness
from kd_lightning.report.plots.alike import similarity_of
from kd_lightning.report.plots.confusion import confused_pairs
from kd_lightning.report.plots.gradients import pull
from kd_lightning.report.plots.tradeoff import COSTS, fronts

Rows = tuple[list[str], list[list[str]]]


def robust_rows(comparison: Comparison) -> Rows:
    """Accuracy of each arm under each corruption, the mean over the seeds."""
    head = ["", "as they are"]
    for kind, strengths in robustness.STRENGTHS.items():
        head += [f"{kind} {robustness.SCALE[kind] * one:g}" for one in strengths]
    rows = []
    for arm in comparison.arms:
        if robustness.ROBUSTNESS.key in arm.runs[0].probes:
            values = [under(arm, kind) for kind in robustness.STRENGTHS]
            rows.append([arm.name, *map(fmt.percent, [values[0][0], *(y for ys in values for y in ys[1:])])])
    return head, rows


def cka_rows(comparison: Comparison) -> Rows:
    """Each layer of each student with each of the teacher."""
    found = [(arm, one) for arm in comparison.arms if (one := similarity_of(arm)) and not arm.teaches]
    if not found:
        return [], []
    layers = found[0][1].teacher
    rows = [
        [f"{arm.name}: {layer}", *(f"{row[j]:.3f}" for row in one.values)]
        for arm, one in found
        if one.teacher == layers
        for j, layer in enumerate(one.student)
    ]
    return ["", *(f"teacher {layer}" for layer in layers)], rows


def gradient_rows(comparison: Comparison) -> Rows:
    """Norm by term, and the angle between task and distillation."""
    found = [(arm, one) for arm in comparison.arms if (one := pull(arm))]
    terms = sorted({term for _, one in found for term in one.norms})
    rows = [
        [
            arm.name,
            *(fmt.quantity(one.norms.get(term)) for term in terms),
            fmt.DASH if one.angle is None else f"{one.angle:.0f}",
        ]
        for arm, one in found
    ]
    return ["", *(f"norm of {term}" for term in terms), "angle (degrees)"], rows


def pair_rows(comparison: Comparison) -> Rows:
    """The most confused pairs with the share of every arm."""
    names = comparison.class_names
    pairs = confused_pairs(comparison) if comparison.kind.classes else []
    rows = [[names[one.target], names[one.answer], *map(fmt.percent, one.rates)] for one in pairs]
    return ["True class", "Answer", *(arm.name for arm in comparison.arms)], rows


def front_rows(comparison: Comparison) -> Rows:
    """The arms on the front of each cost, the cheapest first."""
    return ["Cost", "On the front"], [[COSTS[key][0], ", ".join(names)] for key, names in fronts(comparison).items()]
