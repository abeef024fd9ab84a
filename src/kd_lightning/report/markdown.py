"""The report as Markdown: verdict, tables, warnings."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from kd_lightning.comparison.results import Comparison
from kd_lightning.measures import format as fmt
from kd_lightning.report.choices import choice_rows, paper_protocol
from kd_lightning.report.plots.balance import balance, class_rows
from kd_lightning.report.probe_tables import cka_rows, front_rows, gradient_rows, pair_rows, robust_rows
from kd_lightning.report.tables import main_table, test_table

SPECIAL = re.compile(r"([\\`*_\[\]|#~$!])")


def markdown(comparison: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown; foreign strings are escaped."""
    parts = ["# Distillation report", *(f"**{escape(text, 1000)}**" for text in comparison.verdicts)]
    parts += [f"> {escape(text, 1000)}" for text in comparison.warnings]
    parts += ["## Result on the test split", _main(comparison)]
    parts += [escape(text, 1000) for text in comparison.remarks]
    if comparison.contrasts:
        head, rows = test_table(comparison)
        parts += ["## Tests", _table(head, rows)]
    head, rows = choice_rows(comparison)
    if rows:
        parts += ["## Choice of weights and cost of a training", _table(head, rows)]
        parts += [] if (note := paper_protocol(comparison)) is None else [escape(note, 1000)]
    if comparison.kind.classes:
        parts += ["## Balance over the classes", _balance(comparison), _classes(comparison)]
    for heading, head, rows in (
        ("Accuracy under corruption (%)", *robust_rows(comparison)),
        ("Likeness of the layers to the teacher's (linear CKA)", *cka_rows(comparison)),
        ("Gradients at the end of the training", *gradient_rows(comparison)),
        ("Most confused pairs (% of the true class)", *pair_rows(comparison)),
        ("Pareto fronts", *front_rows(comparison)),
    ):
        parts += [f"## {heading}", _table(head, rows)] if rows else []
    return "\n\n".join(parts) + "\n"


def escape(text: object, limit: int = 60) -> str:
    """Text that Markdown and the HTML in it show as it is."""
    return SPECIAL.sub(r"\\\1", html.escape(fmt.clean(text, limit), quote=False))


def _main(comparison: Comparison) -> str:
    columns = main_table(comparison)
    rows = [[arm.name, *(column.cells[i] for column in columns)] for i, arm in enumerate(comparison.arms)]
    seeds = max(len(arm.seeds) for arm in comparison.arms)
    note = f"\n\nMean ± standard deviation over {seeds} seeds." if seeds > 1 else "\n\nOne seed."
    return _table(["", *(column.title for column in columns)], rows) + note


def _balance(comparison: Comparison) -> str:
    rows = []
    for arm in comparison.arms:
        even = balance(comparison, arm)
        rows.append([arm.name, even.worst, fmt.percent(even.accuracy), fmt.percent(even.dispersion)])
    return _table(["", "Worst class", "its accuracy (%)", "Deviation between classes (points)"], rows)


def _classes(comparison: Comparison) -> str:
    rows, left_out = class_rows(comparison)
    head = ["Class", "Samples", *(f"{arm.name} (%)" for arm in comparison.arms)]
    head += [f"{contrast.name}, change (points)" for contrast in comparison.contrasts]
    cells = [
        [row.name, str(row.support), *map(fmt.percent, row.accuracy), *map(fmt.points, row.change)] for row in rows
    ]
    note = f"\n\n{left_out} classes between the best and the worst are left out." if left_out else ""
    return _table(head, cells) + note


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    text = [[escape(cell) for cell in head], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in text)
