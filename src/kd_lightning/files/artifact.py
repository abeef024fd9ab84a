"""What a training left in its folder: record, weights, what its net says of each split, curves."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.config.schema import Config
from kd_lightning.config.values import read_settings
from kd_lightning.files.checksum import FILES, DamagedFileError, check_file, checksums, read_record, write_record
from kd_lightning.files.runs import read_status

RECORD = "arm.json"
WEIGHTS = "student.safetensors"
SETTINGS = "config.yaml"
TEST = "test.safetensors"
VALIDATION = "validation.safetensors"
# Records that have the checksums of the files beside them.
_RECORDS = (RECORD, "export.json")
IGNORED = -100  # the target that the whole framework leaves out


@dataclass
class Answers:
    """What a net says of a split.

    Rows are put in the order of `index` and repeated ones (a distributed sampler pads) are dropped, so that two nets
    over the same split can be compared row by row; rows whose target is -100 (a class) or nan (a value) are left out.

    Args:
        name: Of the training, for messages.
        logits: (N, C): logits, predicted values (N, 1) or embeddings.
        target: (N,) true classes int64, or true values float32 (of embeddings, which have none, zeros).
        index: (N,) stable sample numbers.

    Raises:
        ValueError: Shapes that do not belong together, no sample, a target out of range, or logits that are not finite.
    """

    name: str
    logits: Tensor
    target: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        logits, target, index = self.logits.detach().cpu().float(), self.target.cpu(), self.index.cpu().long()
        target = target.float() if target.is_floating_point() else target.long()
        if logits.ndim != 2 or target.shape != logits.shape[:1] or index.shape != target.shape:
            shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}, index {tuple(index.shape)}"
            raise ValueError(f"Run {self.name!r} needs logits (N, C), target (N,) and index (N,), got {shapes}.")
        valid = target.isfinite() if target.is_floating_point() else target != IGNORED
        logits, target, index = logits[valid], target[valid], index[valid]
        order = index.argsort(stable=True)
        index = index[order]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        keep = order[first]
        self.logits, self.target, self.index = logits[keep], target[keep], index[first]
        self._check()

    def _check(self) -> None:
        if not len(self.target):
            raise ValueError(f"Run {self.name!r} has no labelled sample to be judged on; look at its test split.")
        broken = int((~self.logits.isfinite()).any(dim=1).sum())
        if broken:
            raise ValueError(
                f"Run {self.name!r} gives logits that are not finite for {broken} of {len(self.target)} samples: "
                "its training diverged, or its precision overflowed. Lower the learning rate or use bf16 or float32."
            )
        low, high = int(self.target.min()), int(self.target.max())
        if not self.target.is_floating_point() and (low < 0 or high >= self.logits.shape[1]):
            raise ValueError(f"Run {self.name!r} has targets {low}..{high} for {self.logits.shape[1]} classes.")


class Part(StrEnum):
    """What a net is in a comparison, as ``arm.json`` has it."""

    TEACHER = "teacher"
    """Others learn from it."""
    ALONE = "alone"
    """Learns from the labels alone."""
    DISTILLED = "distilled"
    """Learns from others too."""


@dataclass
class Artifact:
    """One net trained one way with one seed, as it lies in its folder; read where it is asked for.

    Attributes:
        folder: Where everything of it lies.
        record: Contents of ``arm.json``: seed, metrics, seconds, identity.
        name: For messages: that of its arm.
        net: The net with its selected weights, in eval mode on the CPU, where it is at hand; see ``load_run``.
        probes: What was measured of the net itself, by the key of each ``Probe``.
        similarity: Of its layers with the teacher's; None where it was not measured.
    """

    folder: Path
    record: dict[str, Any]
    name: str = "a training"
    net: nn.Module | None = None
    probes: dict[str, Any] = field(default_factory=dict)
    similarity: Any = None

    @classmethod
    def open(cls, folder: str | Path, name: str = "a training") -> Artifact:
        """That of a finished training.

        Raises:
            FileNotFoundError: The folder is none.
            DamagedFileError: Its record was changed.
        """
        try:
            record = read_record(Path(folder) / RECORD)
        except FileNotFoundError:
            raise FileNotFoundError(f"{folder} is not the folder of a finished training (no {RECORD}).") from None
        return cls(Path(folder), record, name)

    def close(self) -> None:
        """Write the record, with a checksum of every other file: it comes last, and makes the training finished."""
        self.record[FILES] = checksums(self.folder, (WEIGHTS, TEST, VALIDATION))
        write_record(self.folder / RECORD, self.record)

    def file(self, name: str) -> Path:
        """One of its files, which is as it was written.

        Raises:
            FileNotFoundError: There is none.
            DamagedFileError: It was changed; says what to do.
        """
        try:
            return check_file(self.folder / name, self.record.get(FILES, {}).get(name))
        except DamagedFileError as error:
            raise DamagedFileError(
                f"{error} Bring it back from a copy; or remove {self.folder / RECORD}, and the command that made it"
                " trains anew."
            ) from None

    def damage(self) -> str | None:
        """Which of its files cannot be used, and why; None where all can."""
        try:
            for name in (WEIGHTS, *self.record.get(FILES, (TEST,))):
                check_file(self.folder / name, self.record.get(FILES, {}).get(name))
        except (DamagedFileError, FileNotFoundError) as error:
            return str(error)
        return None

    @property
    def seed(self) -> int:
        """That it was trained with; those of two arms are paired by it."""
        return int(self.record["seed"])

    @property
    def kind(self) -> Part:
        """What its net is in a comparison."""
        return Part(self.record["kind"])

    @property
    def train_seconds(self) -> float | None:
        """Wall time of the training; None where unknown."""
        return self.record.get("train_seconds")

    @property
    def energy_joules(self) -> float | None:
        """Of the training; None where the machine does not tell."""
        return self.record.get("energy_joules")

    @property
    def epochs(self) -> float | None:
        """That were trained."""
        return self.record.get("epochs")

    @property
    def whole(self) -> dict[str, float]:
        """Metrics of the whole test split, where the kept rows are a sample of it."""
        return self.record.get("whole") or {}

    @property
    def choices(self) -> dict[str, dict[str, float]]:
        """Metrics on test of each choice of weights: ``last``, ``best`` (on validation), ``best_on_test``."""
        return self.record.get("test") or {}

    @property
    def score(self) -> float | None:
        """The monitored metric on validation; None where there is none."""
        value = next(iter(self.record["validation"].values()), None)
        return None if value is None else float(value)

    @property
    def weights(self) -> Path:
        """The net's weights."""
        return self.folder / WEIGHTS

    @cached_property
    def settings(self) -> Config:
        """What it was trained with; ``student`` is its net."""
        return read_settings(self.folder / SETTINGS)

    @cached_property
    def answers(self) -> Answers:
        """On the test split."""
        found = load_file(self.file(TEST))
        return Answers(self.name, found["logits"], found["target"], found["index"])

    @property
    def logits(self) -> Tensor:
        """(N, C) of the test split."""
        return self.answers.logits

    @property
    def target(self) -> Tensor:
        """(N,) of the test split."""
        return self.answers.target

    @property
    def index(self) -> Tensor:
        """(N,) of the test split: stable sample numbers."""
        return self.answers.index

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor] | None:
        """Logits (M, C) and targets (M,) of the validation split, which the temperature is fitted on."""
        try:
            found = load_file(self.file(VALIDATION))
        except FileNotFoundError:
            return None
        return found["logits"], found["target"]

    @cached_property
    def curves(self) -> list[dict[str, Any]]:
        """Rows of the CSV log (`epoch`, `step`, `train/loss`, `train/<term>`, `val/top1`, ...).

        A row needs not have every column. A training that was resumed has several logs; what a later one logged again
        counts once.
        """
        rows: list[dict[str, Any]] = []
        logs = self.folder.glob("logs/version_*/metrics.csv")
        for path in sorted(logs, key=lambda p: int(p.parent.name.split("_")[1])):
            with path.open(newline="") as handle:
                new = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(handle)]
            if new:
                start = min(row.get("step", 0.0) for row in new)
                rows = [row for row in rows if row.get("step", 0.0) < start] + new
        return rows


def student_folder(folder: Path) -> Path:
    """The folder that holds the student of a run: the folder itself, or the arm that a pipeline chose.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
    """
    if (folder / WEIGHTS).is_file():
        return folder
    chosen: str | None = read_status(folder).get("student")
    if chosen and (folder / chosen / WEIGHTS).is_file():
        return folder / chosen
    raise FileNotFoundError(
        f"{folder} holds no finished student (no {WEIGHTS}). Give the folder of a finished run, for example"
        " run=outputs/digits_resnet/2026-01-31_12-00-00, or go on with it: resume=auto."
    )


def whole_weights(path: Path) -> Path:
    """The weights of a run folder, an export folder or a file, unchanged as far as a record beside them tells.

    Raises:
        FileNotFoundError: There are none.
        DamagedFileError: They were changed.
    """
    file = path if path.is_file() else student_folder(path) / WEIGHTS
    for name in _RECORDS:
        if (file.parent / name).is_file():
            return check_file(file, read_record(file.parent / name).get(FILES, {}).get(file.name))
    return file


def required_run(settings: Config) -> Path:
    """The ``run`` setting of a job that works on a finished run.

    Raises:
        ValueError: Where it was not given.
    """
    if settings.run is None:
        raise ValueError(
            f"job={settings.job} works on a finished run: add run=<folder>, such as run=outputs/digits_resnet/..."
        )
    return Path(settings.run)
