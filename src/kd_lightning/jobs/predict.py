"""``job=predict run=<folder> inputs=[<files or folders>]``: what the exported student says of pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from kd_lightning.data.preprocess import apply_preprocessing
from kd_lightning.jobs._export import FORMATS
from kd_lightning.jobs._load import required_run

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the answers; with ``predict.output`` also write them."""
    answers = predict(Path(required_run(cfg)), list(cfg.inputs), cfg.predict.backend, cfg.predict.top)
    table = Table("file", "class", "probability", "next")
    for answer in answers:
        first, *others = answer["classes"]
        table.add_row(
            answer["file"],
            first["class"],
            f"{first['probability']:.3f}",
            ", ".join(f"{c['class']} {c['probability']:.3f}" for c in others),
        )
    Console().print(table)
    if cfg.predict.output is not None:
        write_answers(answers, Path(cfg.predict.output))


def predict(run_folder: Path, inputs: list[str], backend: str = "onnx", top: int = 3) -> list[dict[str, Any]]:
    """Answers of an exported student for picture files.

    Args:
        run_folder: Folder of a run, or an export folder.
        inputs: Picture files, or folders of them.
        backend: ``onnx`` or ``torch_export``.
        top: How many classes an answer names.

    Raises:
        FileNotFoundError: Where the export or a picture is not there.
        ValueError: Where a file is no picture, or the backend is unknown.
    """
    if backend not in FORMATS:
        raise ValueError(f"predict.backend={backend}: choose {' or '.join(FORMATS)}.")
    export = run_folder / "export" if (run_folder / "export").is_dir() else run_folder
    name, _, load = FORMATS[backend]
    if not (export / name).is_file():
        raise FileNotFoundError(f"{run_folder} holds no {name}: export it first with job=export run={run_folder}.")
    preprocessing = json.loads((export / "preprocessing.json").read_text())
    names, runner = preprocessing["class_names"], load(export / name)
    answers = []
    for file in _files(inputs):
        probabilities = runner(apply_preprocessing(file, preprocessing)).softmax(1)[0]
        best = probabilities.topk(min(top, len(names)))
        classes = [
            {"class": names[i], "probability": round(float(p), 6)}
            for p, i in zip(best.values, best.indices.tolist(), strict=True)
        ]
        answers.append({"file": str(file), "classes": classes})
    return answers


def _files(inputs: list[str]) -> list[Path]:
    """Picture files of the inputs; folders give the pictures in them."""
    if not inputs:
        raise ValueError("job=predict needs pictures: inputs=[picture.png] or inputs=[folder].")
    files: list[Path] = []
    for given in map(Path, inputs):
        if given.is_dir():
            inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"{given} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
            files.extend(inside)
        elif given.is_file():
            files.append(given)
        else:
            raise FileNotFoundError(f"inputs: {given} does not exist.")
    return files


def write_answers(answers: list[dict[str, Any]], path: Path) -> None:
    """Write answers as .csv (file, class, probability) or .jsonl (everything).

    Raises:
        ValueError: For another suffix.
    """
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["file", "class", "probability"])
            writer.writerows([a["file"], a["classes"][0]["class"], a["classes"][0]["probability"]] for a in answers)
    else:
        raise ValueError(f"predict.output={path}: end it with .csv or .jsonl.")
