"""The deployable student: exported without the teacher, every file checked against PyTorch on test data."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kd_lightning.data.module import KDDataModule
from kd_lightning.data.preprocess import to_float
from kd_lightning.deploy.card import HEADINGS, figure_rows, model_card
from kd_lightning.deploy.check import Figures, Reference, measure, objection
from kd_lightning.deploy.fake_quant import without_fake_quant
from kd_lightning.deploy.formats import FORMATS, known_format
from kd_lightning.deploy.student import PREPROCESSING, RECORD
from kd_lightning.jobs._arm import FittedArm
from kd_lightning.jobs._export_record import describe, licences, teacher_logits, teacher_of
from kd_lightning.runs import write_json

log = logging.getLogger("kd_lightning")


@dataclass
class _Bench:
    """What every file is checked on."""

    data: KDDataModule
    split: str
    reference: Reference
    example: Tensor

    def batches(self) -> Iterator[Tensor]:
        """Images of the split, in order; read anew for every file, so that they need not fit into memory."""
        return images(self.data, self.split)

    def measure(self, run: Any, path: Path) -> Figures:
        """A way to run the student, whose file is ``path``."""
        return measure(run, path.stat().st_size, self.batches(), self.reference, self.example)


def export_student(arm: FittedArm, data: KDDataModule, folder: Path, cfg: DictConfig) -> dict[str, float]:
    """Write weights, preprocessing, labels, every format and the model card; formats written before stay.

    Args:
        arm: The finished student.
        data: For preprocessing, calibration and the check.
        folder: Where to.
        cfg: The run's configuration, with ``export``.

    Returns:
        Format -> largest difference of logits, relative to the largest logit.

    Raises:
        ValueError: For an unknown format, or one whose answers are not good enough; the other formats are written.
    """
    for name in cfg.export.formats:
        known_format(name, f"export.formats={list(cfg.export.formats)}")
    folder.mkdir(parents=True, exist_ok=True)
    net = without_fake_quant(copy.deepcopy(arm.net)).cpu().eval()
    for file in ("student.safetensors", "config.yaml"):
        shutil.copyfile(arm.folder / file, folder / file)
    bench = _bench(net, data, teacher_logits(cfg, data, folder.parent))
    plain = bench.measure(_in_pytorch(net), folder / "student.safetensors")
    before = _earlier(folder, arm)
    record = {
        **describe(arm, data, net),
        "quantise": bool(cfg.student.get("quantise")),
        "license": licences(cfg, before.get("license", {})),
        "split": bench.split,
        "samples": len(bench.reference.target),
        "pytorch": plain.as_dict(),
        "teacher": teacher_of(cfg, data, bench.reference),
        "formats": before.get("formats", {}),
    }
    accuracy = max(plain.accuracy, _promised(arm, cfg, bench.split))
    failures = _write_formats(net, data, folder, cfg, bench, accuracy, record["formats"])
    _write_texts(folder, data, record)
    _show(record, folder)
    if failures:
        raise ValueError("\n".join(failures))
    return {name: record["formats"][name]["difference"] for name in cfg.export.formats}


def images(data: KDDataModule, split: str) -> Iterator[Tensor]:
    """Every image of a split as the network sees it, in batches."""
    return (data.ready(raw)["image"] for raw in data.loader(split, whole=True))


def _bench(net: nn.Module, data: KDDataModule, teacher: Tensor | None) -> _Bench:
    """PyTorch's answers on the test split; where there is none, on validation or training data."""
    split = next(name for name in ("test", "validation", "train") if len(data.split[name]))
    run = _in_pytorch(net)
    logits = torch.cat([run(image) for image in images(data, split)])
    fits = split == "test" and teacher is not None and teacher.shape == logits.shape
    reference = Reference(logits, data.targets(split), teacher if fits else None)
    return _Bench(data, split, reference, next(images(data, split)))


def _promised(arm: FittedArm, cfg: DictConfig, split: str) -> float:
    """The accuracy that a student had under int8 rounding: its int8 file must have it too; 0 for other students."""
    if not cfg.student.get("quantise") or split != "test":
        return 0.0
    return float(arm.record["test"][arm.record["selected"]]["top1"])


def _in_pytorch(net: nn.Module) -> Any:
    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = net(image)
        return logits

    return run


def _calibration(data: KDDataModule, samples: int) -> Tensor:
    """Training images, the same ones every time, as the deployed student will see pictures: not augmented."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(data.num_samples, generator=generator)[: max(samples, 2)]
    return data.normalise(to_float(data.read("train", chosen.sort().values)))


def _earlier(folder: Path, arm: FittedArm) -> dict[str, Any]:
    """The record of an earlier export of the same student, with the formats that are still there; else empty."""
    try:
        before: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    if before.get("identity") != arm.record["identity"]:
        return {}
    there = {name: figures for name, figures in before["formats"].items() if (folder / FORMATS[name].file).is_file()}
    return {**before, "formats": there}


def _write_formats(
    net: nn.Module,
    data: KDDataModule,
    folder: Path,
    cfg: DictConfig,
    bench: _Bench,
    accuracy: float,
    formats: dict[str, Any],
) -> list[str]:
    """Write and check every format; a file that is not good enough is taken away. Returns what is wrong."""
    failures = []
    examples = _calibration(data, cfg.export.calibration)
    for name in cfg.export.formats:
        form = FORMATS[name]
        log.info(f"exporting {form.file} ...")
        partial = folder / f"partial.{form.file}"
        form.write(net, examples, partial)
        figures = bench.measure(form.load(partial), partial)
        reason = objection(figures, accuracy, form.exact, cfg.export.tolerance, cfg.export.accuracy_drop)
        if reason is not None:
            partial.unlink()
            failures.append(f"The {form.title} file of the student {reason}")
            continue
        partial.replace(folder / form.file)
        formats[name] = figures.as_dict()
    return failures


def _write_texts(folder: Path, data: KDDataModule, record: dict[str, Any]) -> None:
    preprocessing = {**data.preprocessing(), "model": record["model"]}
    write_json(folder / PREPROCESSING, preprocessing)
    write_json(folder / RECORD, record)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in preprocessing["class_names"]))
    (folder / "model_card.md").write_text(model_card(record, preprocessing))


def _show(record: dict[str, Any], folder: Path) -> None:
    table = Table(title=f"Exported student, on the {record['split']} split", box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in HEADINGS[1:]:
        table.add_column(heading, min_width=max(map(len, heading.split())))
    for _, *row in figure_rows(record):
        table.add_row(*row)
    Console().print(table)
    log.info(f"Export: {folder}/model_card.md")
