"""What a study tells beside the comparison: which weights were chosen, and what the training cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kd_lightning.jobs._comparison import read_record
from kd_lightning.jobs._study import Study
from kd_lightning.report import format as fmt
from kd_lightning.report.choices import WHICH, choice_rows
from kd_lightning.report.results import Comparison
from kd_lightning.report.tasks import Score

if TYPE_CHECKING:
    from rich.table import Table


def study_numbers(study: Study, score: Score) -> dict[str, Any]:
    """Per arm, teacher first: seeds, score on test of each choice of weights, seconds and joules of each seed."""
    rows: dict[str, Any] = {}
    if study.teacher_arm is not None:
        rows["teacher"] = _row([study.teacher_arm.record], [str(study.teacher_arm.folder)], score)
    for name in dict.fromkeys(cell.arm for cell in study.cells):
        done = [cell for cell in study.cells if cell.arm == name and cell.done]
        if done:
            rows[name] = _row([read_record(cell.folder) for cell in done], [str(cell.folder) for cell in done], score)
    return rows


def _row(records: Sequence[dict[str, Any]], folders: list[str], score: Score) -> dict[str, Any]:
    scores = {
        which: [record["test"][which][score.key] for record in records]
        for which in WHICH
        if all(score.key in record["test"].get(which, {}) for record in records)
    }
    return {
        "seeds": [record["seed"] for record in records],
        "cells": folders,
        "epochs": [record["epochs"] for record in records],
        "validation": [next(iter(record["validation"].values())) for record in records],
        "test": scores,
        "train_seconds": [record["train_seconds"] for record in records],
        "energy_joules": [record.get("energy_joules") for record in records],
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


def cost_sentence(rows: dict[str, Any]) -> str:
    """The whole in one line."""
    seconds = {name: sum(row["train_seconds"]) for name, row in rows.items()}
    count = sum(len(row["seeds"]) for name, row in rows.items() if name != "teacher")
    students = sum(value for name, value in seconds.items() if name != "teacher")
    teacher = f"the teacher {fmt.seconds(seconds['teacher'])} once for all" if "teacher" in rows else "no teacher"
    return f"Cost: {count} students {fmt.seconds(students)} in all, {teacher}."
