"""``job=predict run=<folder> inputs=[<files, folders or ->]``: what the exported student says of pictures."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.jobs._load import required_run

log = logging.getLogger("kd_lightning")

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
STDIN = "-"
SHOWN = 50


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the answers; with ``predict.output`` also write them.

    Raises:
        ValueError: Where pictures could not be read; the others are answered first.
    """
    output = None if cfg.predict.output is None else _output(cfg.predict.output)
    student = ExportedStudent(required_run(cfg), cfg.predict.backend, setting="predict.backend")
    answers = predict(student, list(cfg.inputs), cfg.predict.top, cfg.predict.batch_size)
    _show(answers)
    if output is not None:
        write_answers(answers, output)
        log.info(f"Written to {output}")
    failed = [answer for answer in answers if "error" in answer]
    if failed:
        listed = "; ".join(answer["error"] for answer in failed[:3]) + ("; ..." if len(failed) > 3 else "")
        raise ValueError(f"{len(failed)} of {len(answers)} pictures could not be read: {listed}")


def predict(student: ExportedStudent, inputs: list[str], top: int = 3, batch_size: int = 64) -> list[dict[str, Any]]:
    """Answers for picture files, in order.

    Args:
        student: From its export folder.
        inputs: Picture files, folders of them, or ``-`` for paths on standard input, one a line.
        top: How many classes an answer names.
        batch_size: Pictures that go through the student at once.

    Returns:
        For each file ``file`` and ``classes`` (``class``, ``probability``, best first), or ``file`` and ``error``.

    Raises:
        FileNotFoundError: An input does not exist, or a folder holds no pictures.
        ValueError: No inputs, or the student takes feature vectors.
    """
    if batch_size < 1:
        raise ValueError(f"predict.batch_size must be at least 1, not {batch_size}.")
    if student.preprocessing["image_size"] is None:
        raise ValueError("This student takes feature vectors; it cannot answer for pictures.")
    answers: list[dict[str, Any]] = []
    files = _files(inputs)
    for start in range(0, len(files), batch_size):
        answers.extend(_answer(student, files[start : start + batch_size], top))
    return answers


def _answer(student: ExportedStudent, files: list[Path], top: int) -> list[dict[str, Any]]:
    """Answers for one batch of files."""
    images, answers = [], []
    for file in files:
        answers.append({"file": str(file)})
        try:
            images.append(student.read(file))
        except ValueError as error:
            answers[-1]["error"] = str(error)
    classes = iter(student.classify(torch.cat(images), top)) if images else iter(())
    return [answer if "error" in answer else {**answer, "classes": next(classes)} for answer in answers]


def _files(inputs: list[str]) -> list[Path]:
    """Picture files of the inputs; folders give the pictures in them."""
    files: list[Path] = []
    for given in _paths(inputs):
        if given.is_dir():
            inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"{given} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
            files.extend(inside)
        elif given.is_file():
            files.append(given)
        else:
            raise FileNotFoundError(f"inputs: {given} does not exist.")
    if not files:
        raise ValueError(
            "job=predict needs pictures: inputs=[picture.png], inputs=[folder], or inputs=[-] for paths on"
            " standard input."
        )
    return files


def _paths(inputs: list[str]) -> Iterator[Path]:
    for given in inputs:
        if given == STDIN:
            yield from (Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip())
        else:
            yield Path(given)


def _show(answers: list[dict[str, Any]]) -> None:
    """A table of the first answers."""
    table = Table("file", "class", "probability", "next")
    for answer in answers[:SHOWN]:
        if "error" in answer:
            table.add_row(escape(answer["file"]), "[red]not read[/red]", "", "")
            continue
        first, *others = answer["classes"]
        following = ", ".join(f"{c['class']} {c['probability']:.3f}" for c in others)
        table.add_row(escape(answer["file"]), escape(first["class"]), f"{first['probability']:.3f}", escape(following))
    Console().print(table)
    if len(answers) > SHOWN:
        Console().print(f"... and {len(answers) - SHOWN} more (predict.output=answers.csv writes them all)")


def _output(path: str) -> Path:
    """Where to write; refused before any work is done."""
    if Path(path).suffix not in (".csv", ".jsonl"):
        raise ValueError(f"predict.output={path}: end it with .csv or .jsonl.")
    return Path(path)


def write_answers(answers: list[dict[str, Any]], path: Path) -> None:
    """Write answers as .csv (file, class, probability, error) or .jsonl (everything)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        return
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["file", "class", "probability", "error"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**answer, **answer.get("classes", [{}])[0]} for answer in answers)
