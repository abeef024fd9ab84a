"""``job=predict run=<folder> inputs=[<files, folders or ->]``: what the exported student says of pictures or texts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from kd_lightning.config.command import Command
from kd_lightning.deploy.answers import GIVEN, predict, predict_texts, write_answers
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.files.artifact import required_run
from kd_lightning.report.console import console

log = logging.getLogger("kd_lightning")

SHOWN = 50


def run(command: Command, folder: Path) -> None:
    """Print the answers; with ``predict.output`` also write them.

    Raises:
        ValueError: Where pictures could not be read; the others are answered first.
    """
    settings = command.settings
    ask = settings.predict
    output = None if ask.output is None else _output(ask.output)
    student = ExportedStudent(required_run(settings), ask.backend, setting="predict.backend")
    options = (settings.inputs, ask.top, ask.batch_size)
    text = student.takes_text
    answers = predict_texts(student, *options, ask.new_tokens) if text else predict(student, *options)
    _show(answers)
    if output is not None:
        write_answers(answers, output)
        log.info(f"Written to {output}")
    failed = [answer for answer in answers if "error" in answer]
    if failed:
        listed = "; ".join(answer["error"] for answer in failed[:3]) + ("; ..." if len(failed) > 3 else "")
        what = "texts could not be answered" if text else "pictures could not be read"
        raise ValueError(f"{len(failed)} of {len(answers)} {what}: {listed}")


def _show(answers: list[dict[str, Any]]) -> None:
    """A table of the first answers."""
    first_column = "text" if answers and "text" in answers[0] else "file"
    classes = any("classes" in answer for answer in answers) or all("error" in answer for answer in answers)
    table = Table(first_column, "class", "probability", "next") if classes else Table(first_column, "answer")
    for answer in answers[:SHOWN]:
        name = escape("\t".join(answer[key] for key in (first_column, "pair") if key in answer))
        if "error" in answer:
            table.add_row(name, "[red]no answer[/red]" if first_column == "text" else "[red]not read[/red]")
            continue
        if "classes" not in answer:
            table.add_row(name, escape(_in_words(answer)))
            continue
        first, *others = answer["classes"]
        following = ", ".join(f"{c['class']} {c['probability']:.3f}" for c in others)
        table.add_row(name, escape(first["class"]), f"{first['probability']:.3f}", escape(following))
    shown = console()
    shown.print(table)
    if len(answers) > SHOWN:
        shown.print(f"... and {len(answers) - SHOWN} more (predict.output=answers.csv writes them all)")


def _in_words(answer: dict[str, Any]) -> str:
    """An answer that is no class, in one cell."""
    return ", ".join(_said(value) for key, value in answer.items() if key not in (*GIVEN, "cut"))


def _said(value: Any) -> str:
    """A number, a text, the beginning of a vector, or words with their classes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], float):
        return "[" + ", ".join(f"{x:.3f}" for x in value[:4]) + f", ...] ({len(value)} numbers)"
    if isinstance(value, list):
        return " ".join("/".join(map(str, one)) if isinstance(one, list) else str(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _output(path: str) -> Path:
    """Where to write; refused before any work is done."""
    if Path(path).suffix not in (".csv", ".jsonl"):
        raise ValueError(f"predict.output={path}: end it with .csv or .jsonl.")
    return Path(path)
