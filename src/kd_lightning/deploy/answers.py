"""What an exported student says of many pictures or texts, and its answers as a file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kd_lightning.core.visible import visible
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.deploy.texts_given import read_texts

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


STDIN = "-"
# How a formula begins in the programs that open tables.
FORMULAS = ("=", "+", "-", "@", "\t")
# What a sample is named by in its answer.
GIVEN = ("file", "text", "pair")


def predict(student: ExportedStudent, inputs: list[str], top: int = 3, batch_size: int = 64) -> list[dict[str, Any]]:
    """Answers for picture files, in order.

    Args:
        student: From its export folder.
        inputs: Picture files, folders of them, or ``-`` for paths on standard input, one a line.
        top: How many classes an answer names.
        batch_size: Pictures that go through the student at once.

    Returns:
        For each file ``file`` and what the student's task says, such as ``classes`` (``class``, ``probability``, best
        first), or ``file`` and ``error``.

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


def predict_texts(
    student: ExportedStudent, inputs: list[str], top: int = 3, batch_size: int = 64, new_tokens: int = 40
) -> list[dict[str, Any]]:
    """Answers for texts, in order.

    Args:
        student: From its export folder.
        inputs: As ``kd_lightning.deploy.texts_given.read_texts`` reads them.
        top: How many classes an answer names.
        batch_size: Texts that go through the student at once.
        new_tokens: Most tokens that a language model adds.

    Returns:
        For each text ``text`` (of pairs ``pair`` too) and what ``ExportedStudent.answer`` gives.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: No inputs, or one that cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"predict.batch_size must be at least 1, not {batch_size}.")
    pair = bool(student.preprocessing.get("pair"))
    texts = [text for given in inputs for text in read_texts(given, pair)]
    if not texts:
        raise ValueError(
            "job=predict needs texts: inputs=['a sentence'], inputs=[texts.txt], inputs=[table.csv] with a column text,"
            " or inputs=[-] for lines on standard input."
        )
    answers: list[dict[str, Any]] = []
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        given = [{"text": t, "pair": p} if pair else {"text": t} for t, p in some]
        ready: list[Any] = [(t, p) if pair else t for t, p in some]
        answers += [{**g, **a} for g, a in zip(given, student.answer(ready, top, new_tokens), strict=True)]
    return [{**a, "error": f"{a['text'][:60]!r}: {a['error']}"} if "error" in a else a for a in answers]


def _answer(student: ExportedStudent, files: list[Path], top: int) -> list[dict[str, Any]]:
    """Answers for one batch of files."""
    images, answers = [], []
    for file in files:
        answers.append({"file": str(file)})
        try:
            images.append(student.read(file))
        except ValueError as error:
            answers[-1]["error"] = str(error)
    said = iter(student.say(torch.cat(images), top)) if images else iter(())
    return [answer if "error" in answer else {**answer, **next(said)} for answer in answers]


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


def write_answers(answers: list[dict[str, Any]], path: Path) -> None:
    """Write answers as .csv (file or text, the best class or what else was said, error) or .jsonl (everything).

    A .csv is opened by programs that compute: what would be a formula there gets an apostrophe before it, and control
    characters are spelt out. A .jsonl has every text as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        path.write_bytes(text.encode(errors="backslashreplace"))  # a file name may be no text: JSON escapes it so
        return
    with path.open("w", newline="", encoding="utf-8") as handle:
        keys = list(dict.fromkeys(key for answer in answers for key in answer))
        given = [key for key in GIVEN if key in keys]
        said = [key for key in keys if key not in (*GIVEN, "classes", "cut", "error")]
        columns = [*given, *(said or ["class", "probability"]), "error"]
        writer = csv.DictWriter(handle, columns, extrasaction="ignore")
        writer.writeheader()
        for answer in answers:
            row = {**answer, **answer.get("classes", [{}])[0]}
            lists = {k: json.dumps(v, ensure_ascii=False) for k, v in row.items() if isinstance(v, (list, dict))}
            writer.writerow({key: _cell(value) for key, value in (row | lists).items()})


def _cell(value: Any) -> Any:
    """What a table program shows as it is."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    if not shown.startswith(FORMULAS):
        return shown
    try:
        float(shown)
    except ValueError:
        return f"'{shown}"
    return shown
