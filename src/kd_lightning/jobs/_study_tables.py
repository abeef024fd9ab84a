"""What a study tells beside the comparison: which weights were chosen, and what the training cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kd_lightning.jobs._comparison import read_record
from kd_lightning.jobs._study import Study
from kd_lightning.report import format as fmt
from kd_lightning.report.stats import summarise
from kd_lightning.report.tasks import Score

if TYPE_CHECKING:
    from rich.table import Table

WHICH = {
    "last": "last epoch",
    "best": "best on validation",
    "best_on_test": "best on test (paper protocol)",
}


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


def study_table(rows: dict[str, Any], score: Score) -> Table:
    """For rich: one row per arm."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [which for which in WHICH if any(which in row["test"] for row in rows.values())]
    table = Table(title=f"Test {score.label} by choice of weights, and what a training cost", title_style="bold")
    table.title_justify, table.box, table.pad_edge = "left", box.SIMPLE_HEAD, False
    table.add_column("Arm", overflow="fold")
    for title in [*(WHICH[which] for which in shown), "Epochs", "Time", "Energy"]:
        table.add_column(title, justify="right", overflow="fold")
    for name, row in rows.items():
        scores = [row["test"].get(which) for which in shown]
        cells = [fmt.with_sd(summarise(v) if v else None, score.scale, score.digits + 1) for v in scores]
        epochs = f"{sum(row['epochs']) / len(row['epochs']):.4g}"
        seconds = sum(row["train_seconds"]) / len(row["train_seconds"])
        table.add_row(*map(Text, [name, *cells, epochs, fmt.seconds(seconds), _energy(row)]))
    return table


def _energy(row: dict[str, Any]) -> str:
    joules = [value for value in row["energy_joules"] if value is not None]
    return f"{sum(joules) / len(joules):,.0f} J" if joules else "not measured"


def protocol_sentence(rows: dict[str, Any]) -> str | None:
    """What the optimistic column is worth, where there is one."""
    if not any("best_on_test" in row["test"] for row in rows.values()):
        return None
    return (
        "Best on test (paper protocol): the epoch was chosen on the test split itself, as in much of the literature."
        " Compare it with published tables only; the verdicts rest on the honest choice."
    )


def cost_sentence(rows: dict[str, Any]) -> str:
    """The whole in one line."""
    seconds = {name: sum(row["train_seconds"]) for name, row in rows.items()}
    count = sum(len(row["seeds"]) for name, row in rows.items() if name != "teacher")
    students = sum(value for name, value in seconds.items() if name != "teacher")
    teacher = f"the teacher {fmt.seconds(seconds['teacher'])} once for all" if "teacher" in rows else "no teacher"
    return f"Cost: {count} students {fmt.seconds(students)} in all, {teacher}."


def teacher_check(rows: dict[str, Any], teacher: float, alone: str, score: Score) -> str | None:
    """A warning where the teacher is not better than the student alone: there is little to learn from it."""
    values = rows.get(alone, {}).get("test", {}).get("best")
    if not values:
        return None
    mean = sum(values) / len(values)
    if score.better(teacher - mean):
        return None
    return (
        f"The teacher ({score.value(teacher)}) is not better than the student alone ({score.value(mean)}): a gain"
        " from it is not to be expected. Train it longer, or take a larger one."
    )
