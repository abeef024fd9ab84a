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
from hydra.utils import instantiate
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor, nn

from kd_lightning.config.schema_jobs import Export
from kd_lightning.core.visible import visible
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.sampler import Draw
from kd_lightning.data.targets import IGNORE
from kd_lightning.data.text.tokenizers import UNBOUNDED
from kd_lightning.deploy.card import HEADINGS, figure_rows, model_card
from kd_lightning.deploy.check import REFINE, Figures, Reference, answers, measure, objection
from kd_lightning.deploy.folder import PREPROCESSING, RECORD, TOKENIZER, checked_in, read_export
from kd_lightning.deploy.formats import huggingface
from kd_lightning.deploy.formats.registry import FORMATS, known_format
from kd_lightning.deploy.inputs import Inputs, LogitsNet, TextNet, bytes_of, tensors_of, unpacked
from kd_lightning.deploy.record import describe, licences, teacher_logits, teacher_of
from kd_lightning.experiment.settle import Settled
from kd_lightning.files.artifact import SETTINGS, WEIGHTS, Artifact
from kd_lightning.files.checksum import write_record
from kd_lightning.files.runs import write_json
from kd_lightning.report.console import console
from kd_lightning.training.nets import load_net, shipped
from kd_lightning.training.predictions import KEPT

log = logging.getLogger("kd_lightning")


@dataclass
class _Bench:
    """What every file is checked on."""

    data: SplitDataModule
    call: Any
    split: str
    reference: Reference

    def batches(self) -> Iterator[tuple[Inputs, Tensor | None]]:
        """Inputs of the split, in order; read anew for every file, so that they need not fit into memory."""
        return batches(self.data, self.call, self.split)

    def measure(self, run: Any, path: Path) -> Figures:
        """A way to run the student, whose file is ``path``."""
        return measure(run, bytes_of(path), self.batches(), self.reference, next(self.batches()))


def export_student(artifact: Artifact, settled: Settled, folder: Path) -> dict[str, float]:
    """Write weights, preprocessing, labels, every format and the model card; formats written before stay.

    Args:
        artifact: The finished student.
        settled: Its run's configuration, with ``export``, and its data for preprocessing, calibration and the check.
        folder: Where to.

    Returns:
        Format -> largest difference of logits, relative to the largest logit.

    Raises:
        ValueError: For an unknown format, or one whose answers are not good enough; the other formats are written.
    """
    settings, data = settled.settings, settled.data
    for name in settings.export.formats:
        known_format(name, f"export.formats={settings.export.formats}")
    folder.mkdir(parents=True, exist_ok=True)
    call = instantiate(artifact.settings.student.call)
    net = deployable(load_net(artifact), call, data)
    for file in (artifact.file(WEIGHTS), artifact.folder / SETTINGS):
        shutil.copyfile(file, folder / file.name)
    bench = _bench(net, data, call, teacher_logits(settled, folder.parent))
    plain = bench.measure(_in_pytorch(net), folder / WEIGHTS)
    before = _earlier(folder, artifact)
    quantise = artifact.settings.student.quantise
    record = {
        **describe(artifact, data, net),
        "quantise": quantise,
        "license": licences(settings.export, before.get("license", {})),
        "split": bench.split,
        "samples": len(bench.reference.target),
        "pytorch": plain.as_dict(),
        "teacher": teacher_of(settled, bench.reference),
        "formats": before.get("formats", {}),
    }
    accuracy = max(plain.accuracy, _promised(artifact, bench.split) if quantise else 0.0)
    written, failures = _write_formats(net, data, folder, settings.export, bench, accuracy)
    record["formats"] |= written
    _write_texts(net, folder, data, record)
    kept = [FORMATS[name] for name in record["formats"] if name not in written]
    known_again = checked_in(folder, [FORMATS[name] for name in written], kept, before)
    write_record(folder / RECORD, {**record, **known_again})
    _show(record, folder)
    if failures:
        raise ValueError("\n".join(failures))
    return {name: record["formats"][name]["difference"] for name in settings.export.formats}


def deployable(student: nn.Module, call: Any, data: SplitDataModule) -> nn.Module:
    """The student as it is shipped: without what only training needs, a function of its input tensors."""
    net = shipped(student)
    net = (copy.deepcopy(net) if net is student else net).cpu().eval()
    arguments = call.arguments(unpacked(data.ready(next(iter(data.loader("train", whole=True))))))
    if isinstance(arguments, Tensor):
        with torch.no_grad():
            return net if isinstance(net(arguments[:1]), Tensor) else LogitsNet(net).eval()
    _cut_vocabulary(net, call)
    huggingface.describe(net, data.class_names, data.tokenizer)  # type: ignore[attr-defined]
    return TextNet(net, call, tuple(arguments), data.task.output).eval()


def _cut_vocabulary(net: nn.Module, call: Any) -> None:
    """Take out the rows of a padded vocabulary that the call cuts off: no file has a say for them."""
    rows = getattr(getattr(net, "config", None), "vocab_size", None)
    wanted = getattr(call, "vocab_size", None)
    if wanted is not None and rows is not None and rows > wanted:
        net.resize_token_embeddings(wanted)  # type: ignore[operator]


def batches(data: SplitDataModule, call: Any, split: str) -> Iterator[tuple[Inputs, Tensor | None]]:
    """Inputs of a split, batch by batch, and which tokens count where every token has a target.

    Of predicted tokens as many as fit into memory, with all of their logits.
    """
    kept = 0
    for raw in data.loader(split, whole=True):
        batch = unpacked(data.ready(raw))
        told = batch["target"] != IGNORE if batch["target"].ndim == 2 else None
        yield call.arguments(batch), told
        kept += 0 if told is None else int(told.sum()) * int(data.facts.get("vocab_size") or 1)
        if kept > KEPT:
            return


def _bench(net: nn.Module, data: SplitDataModule, call: Any, teacher: Tensor | None) -> _Bench:
    """PyTorch's answers on the test split; where there is none, on validation or training data."""
    split = next(name for name in ("test", "validation", "train") if len(data.split[name]))
    logits = answers(_in_pytorch(net), batches(data, call, split))
    fits = split == "test" and teacher is not None and teacher.shape == logits.shape
    reference = Reference(logits, _targets(data, split)[: len(logits)], data.task, teacher if fits else None)
    return _Bench(data, call, split, reference)


def _targets(data: SplitDataModule, split: str) -> Tensor:
    """The target of every row; zeros where there is nothing to be told."""
    if data.target.each == "nothing":
        return torch.zeros(len(data.split[split]))
    parts = [raw["target"] for raw in data.loader(split, whole=True)]
    return torch.cat([part[part != IGNORE] if part.ndim == 2 else part for part in parts])


def _promised(artifact: Artifact, split: str) -> float:
    """The accuracy that a student had under int8 rounding: its int8 file must have it too."""
    return float(artifact.choices[artifact.record["selected"]].get("top1", 0.0)) if split == "test" else 0.0


def _in_pytorch(net: nn.Module) -> Any:
    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            logits: Tensor = net(*tensors_of(inputs))
        return logits

    return run


def calibration(data: SplitDataModule, call: Any, samples: int) -> Inputs:
    """Training samples, the same ones every time, as the deployed student will see its inputs: not augmented."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(data.num_samples, generator=generator)[: max(samples, 2)]
    raw = next(iter(data.replay([Draw(chosen.sort().values.tolist(), None)])))
    inputs: Inputs = call.arguments(unpacked(data.ready(raw)))
    return inputs


def kind_of(inputs: Inputs) -> str:
    """What a student takes, in the words of ``Format.takes``."""
    return "image" if isinstance(inputs, Tensor) else "text"


def _earlier(folder: Path, artifact: Artifact) -> dict[str, Any]:
    """The record of an earlier export of the same student, with the formats that are still there; else empty."""
    try:
        before = read_export(folder)
    except (OSError, ValueError):
        return {}
    if before.get("identity") != artifact.record["identity"]:
        return {}
    known = {name: figures for name, figures in before["formats"].items() if name in FORMATS}
    there = {name: figures for name, figures in known.items() if (folder / FORMATS[name].file).exists()}
    return {**before, "formats": there}


def _write_formats(
    net: nn.Module,
    data: SplitDataModule,
    folder: Path,
    export: Export,
    bench: _Bench,
    accuracy: float,
) -> tuple[dict[str, Any], list[str]]:
    """Write and check every format; what is not good enough is taken away. Returns figures, and what is wrong."""
    formats: dict[str, Any] = {}
    failures = []
    examples = calibration(data, bench.call, export.calibration)
    kind = kind_of(examples)
    words = data.task.quality_name, REFINE if kind == "image" else ""
    for name in export.formats:
        form = FORMATS[name]
        refusal = form.refusal(net, kind)
        if refusal is not None:
            failures.append(refusal)
            continue
        log.info(f"exporting {form.file} ...")
        partial = folder / f"partial.{form.file}"
        try:
            form.make(net, examples, partial)
            figures = bench.measure(form.runner(partial), partial)
        except ValueError as error:
            _remove(partial)
            failures.append(str(error))
            continue
        reason = objection(figures, accuracy, form.exact, export.tolerance, export.accuracy_drop, *words)
        if reason is not None:
            _remove(partial)
            failures.append(f"The {form.title} file of the student {reason}")
            continue
        _remove(folder / form.file)
        partial.replace(folder / form.file)
        if form.with_tokenizer:
            save_tokenizer(data, folder / form.file, net)
        formats[name] = figures.as_dict()
    return formats, failures


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def save_tokenizer(data: SplitDataModule, folder: Path, net: nn.Module) -> None:
    """The tokenizer, which also knows how much the student takes; ``data.max_length`` is less, and not that."""
    data.save_tokenizer(folder)  # type: ignore[attr-defined]
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    config = getattr(net.net if isinstance(net, TextNet) else net, "config", None)
    takes = getattr(config, "max_position_embeddings", None) or data.facts["max_length"]
    if said.get("model_max_length", UNBOUNDED + 1) > UNBOUNDED:
        write_json(path, {**said, "model_max_length": takes})


def _write_texts(net: nn.Module, folder: Path, data: SplitDataModule, record: dict[str, Any]) -> None:
    preprocessing = {**data.preprocessing(), "task": data.task.name, "model": record["model"]}
    if isinstance(net, TextNet):
        save_tokenizer(data, folder / TOKENIZER, net)
        preprocessing["names"] = list(net.names)
        preprocessing["mask_token"] = data.tokenizer.mask_token  # type: ignore[attr-defined]
    write_json(folder / PREPROCESSING, preprocessing)
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in preprocessing["class_names"]), encoding="utf-8")
    (folder / "model_card.md").write_text(visible(model_card(record, preprocessing)), encoding="utf-8")


def _show(record: dict[str, Any], folder: Path) -> None:
    table = Table(title=f"Exported student, on the {record['split']} split", box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in HEADINGS[1:]:
        table.add_column(heading, min_width=max(map(len, heading.split())))
    for _, *row in figure_rows(record):
        table.add_row(*row)
    console().print(table)
    log.info(f"Export: {folder}/model_card.md")
