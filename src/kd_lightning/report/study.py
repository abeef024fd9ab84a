"""What a study tells beside the comparison: which weights were chosen, and what the training cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kd_lightning.comparison.results import Comparison
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures import format as fmt
from kd_lightning.measures.score import Score
from kd_lightning.report.choices import WHICH, choice_rows, paper_protocol
from kd_lightning.report.console import console as report_console

if TYPE_CHECKING:
    from rich.table import Table


def study_numbers(artifacts: Mapping[str, Sequence[Artifact]], score: Score) -> dict[str, Any]:
    """Per arm: seeds, score on test of each choice of weights, seconds and joules of each seed."""
    return {name: _row(group, score) for name, group in artifacts.items()}


def _row(group: Sequence[Artifact], score: Score) -> dict[str, Any]:
    scores = {
        which: [one.choices[which][score.key] for one in group]
        for which in WHICH
        if all(score.key in one.choices.get(which, {}) for one in group)
    }
    return {
        "seeds": [one.seed for one in group],
        "cells": [str(one.folder) for one in group],
        "epochs": [one.epochs for one in group],
        "validation": [one.score for one in group],
        "test": scores,
        "train_seconds": [one.train_seconds for one in group],
        "energy_joules": [one.energy_joules for one in group],
    }


def study_table(comparison: Comparison) -> Table:
    """For rich: one row per arm."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"Test {comparison.score.label} by choice of weights, and what a training cost"
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    head, rows = choice_rows(comparison)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def cost_sentence(rows: dict[str, Any], teachers: Sequence[str]) -> str:
    """The whole in one line."""
    seconds = {name: sum(row["train_seconds"]) for name, row in rows.items()}
    count = sum(len(row["seeds"]) for name, row in rows.items() if name not in teachers)
    students = sum(value for name, value in seconds.items() if name not in teachers)
    theirs = ", ".join(f"the {name} {fmt.seconds(seconds[name])} once for all" for name in teachers) or "no teacher"
    return f"Cost: {count} students {fmt.seconds(students)} in all, {theirs}."


def show_study(comparison: Comparison, rows: dict[str, Any], teachers: Sequence[str]) -> None:
    """Print what a study tells beside the comparison.

    Args:
        comparison: Of its arms.
        rows: Those of ``study_numbers``.
        teachers: Names of rows that are trained roles, not students.
    """
    console = report_console()
    console.print(study_table(comparison))
    console.print(cost_sentence(rows, teachers), highlight=False, markup=False)
    if (note := paper_protocol(comparison)) is not None:
        console.print(note, style="yellow", highlight=False, markup=False)
