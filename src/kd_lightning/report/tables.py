"""The comparison as a table: rows of text that the console, Markdown and HTML reports share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_lightning.comparison.results import Arm, Comparison, Contrast
from kd_lightning.comparison.stats import with_sd
from kd_lightning.measures import format as fmt
from kd_lightning.measures.probe import known_probes
from kd_lightning.measures.score import Measure, Score
from kd_lightning.report.plots.alike import last_layer, similarity_of

if TYPE_CHECKING:
    from rich.table import Table

GROUPS = ("result", "calibration", "similarity", "tradeoff")
WIDE = 5  # more arms than this are listed downwards on the console, with fewer columns


@dataclass(frozen=True)
class Column:
    """A measure with its unit, and the text of it for each arm."""

    name: str
    unit: str
    cells: list[str]
    short: bool = False  # also shown where there is little room
    group: str = "result"  # which section of the page it stands in

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def main_table(comparison: Comparison) -> list[Column]:
    """The measures of every arm; those that no arm has are left out."""
    batched = {arm.cost.batched for arm in comparison.arms} - {None}
    batch = f"Latency, batch {batched.pop()}" if len(batched) == 1 else "Latency, batched"
    measures = [*comparison.kind.columns, *(one for probe in known_probes().values() for one in probe.columns)]
    columns = (
        [_column(one, comparison) for one in measures]
        + _over_trivial(comparison)
        + [
            Column(name, unit, [cell(arm) for arm in comparison.arms], short, group)
            for group, name, unit, cell, short in _spec(batch)
        ]
    )
    columns.sort(key=lambda column: GROUPS.index(column.group))  # stable: a task's come before those of every task
    return [column for column in columns if any(cell != fmt.DASH for cell in column.cells)]


def _column(measure: Measure, comparison: Comparison) -> Column:
    cells = [with_sd(arm.summary(measure.key), measure.scale, measure.digits) for arm in comparison.arms]
    return Column(measure.name, measure.unit, cells, measure.short, measure.group)


def _over_trivial(comparison: Comparison) -> list[Column]:
    """How far every arm is beyond the score of what looks at nothing, where there is such a thing."""
    score, trivial = comparison.score, comparison.trivial
    if trivial is None:
        return []
    cells = [score.gap(arm.metrics_mean(score.key) - trivial) for arm in comparison.arms]
    return [Column(f"{score.name} against trivial ({score.value(trivial)})", score.gap_unit, cells)]


def _spec(batch: str) -> list[tuple[str, str, str, Callable[[Arm], str], bool]]:
    """Of every task: section, name, unit, text of an arm, and whether it is shown where there is little room."""
    return [
        ("similarity", "CKA, last layer", "", _last_cka, False),
        ("tradeoff", "Parameters", "", lambda arm: fmt.quantity(arm.cost.parameters), True),
        ("tradeoff", "FLOPs", "", lambda arm: fmt.quantity(arm.cost.flops), False),
        ("tradeoff", "File size", "", lambda arm: fmt.file_size(arm.cost.file_bytes), False),
        ("tradeoff", "Latency, batch 1", "ms", lambda arm: fmt.milliseconds(arm.cost.latency_ms_batch1), True),
        ("tradeoff", batch, "ms", lambda arm: fmt.milliseconds(arm.cost.latency_ms_batched), False),
        ("tradeoff", "Training time", "", lambda arm: fmt.seconds(arm.train_seconds), False),
    ]


def _last_cka(arm: Arm) -> str:
    found = similarity_of(arm)
    return fmt.DASH if found is None else f"{last_layer(found):.3f}"


def test_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the tests: one row per contrast."""
    corrected = sum(contrast.p is not None for contrast in comparison.tests) > 1
    level = f"{100 * (1 - comparison.alpha):g} % interval"
    p = "p (t‑test, Holm)" if corrected else "p (paired t‑test)"  # a hyphen that does not break
    head = [
        "Against the reference",
        "Seeds",
        f"Difference ({comparison.score.gap_unit})",
        level,
        p,
        "Cohen's d",
        "Won / lost, first seed",
        "p (McNemar)",
    ]
    rows = [_test_row(contrast, comparison.score) for contrast in comparison.tests]
    told = any(contrast.samples for contrast in comparison.tests)
    return (head, rows) if told else (head[:-2], [row[:-2] for row in rows])


def _test_row(contrast: Contrast, score: Score) -> list[str]:
    row = [f"{fmt.clean(contrast.name)} – {fmt.clean(contrast.reference)}", str(len(contrast.seeds))]
    test, first = contrast.test, contrast.samples[0] if contrast.samples else None
    digits = score.digits + 1
    if test is None:
        row += [
            score.gap(contrast.differences[0], digits) if contrast.differences else fmt.DASH,
            fmt.DASH,
            fmt.DASH,
            fmt.DASH,
        ]
    else:
        found = test.difference
        low, high = score.gap(found.low, digits), score.gap(found.high, digits)
        row.append(f"{score.gap(found.mean, digits)} ± {score.size(found.sd or 0.0, digits)}")
        row.append(f"{low} to {high}" if test.p is not None else fmt.DASH)
        row.append("undefined" if contrast.p is None else p_value(contrast.p))
        row.append(fmt.DASH if test.cohens_d is None else f"{test.cohens_d:.2f}".replace("-", "−"))
    return row + ([f"{first.won} / {first.lost}", p_value(first.p)] if first else [fmt.DASH, fmt.DASH])


def p_value(p: float) -> str:
    """'< 0.001', '0.012', '0.41'."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def console_table(comparison: Comparison) -> Table:
    """The main table for rich, within 100 columns: measures downwards, arms across (the other way round if many)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, names = main_table(comparison), [fmt.clean(arm.name, 40) for arm in comparison.arms]
    seeds = max(len(arm.seeds) for arm in comparison.arms)
    title = "Test split" if seeds < 2 else f"Test split, mean ± standard deviation over {seeds} seeds"
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    across = len(names) <= WIDE
    heads = names if across else [column.title for column in columns if column.short]
    table.add_column("Measure" if across else "Arm", overflow="fold")
    for head in heads:
        table.add_column(Text(head), justify="right", overflow="fold")
    if across:
        for column in columns:
            table.add_row(Text(column.title), *map(Text, column.cells))
    else:
        for i, name in enumerate(names):
            table.add_row(Text(name), *(Text(column.cells[i]) for column in columns if column.short))
    return table
