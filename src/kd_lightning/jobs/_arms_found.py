"""Folders of trainings grouped into arms: what differs in the seed only belongs together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kd_lightning.jobs._comparison import read_record
from kd_lightning.runs import digest

# What decides the outcome of a training, besides its seed.
_PARTS = ("student", "method", "optimizer", "scheduler", "trainer", "data", "select")
_PLACES = ("data.root", "data.num_workers", "data.eval_batch_size", "data.source", "trainer.enable_progress_bar")


@dataclass
class FoundArm:
    """Trainings of one recipe under several seeds.

    Attributes:
        name: What the tables call it.
        kind: ``teacher``, ``alone`` or ``distilled``.
        model: Name of the net.
        control: Whether it is the student alone that others are tested against.
        settings: Dotted settings, without the seed.
        folders: One for each seed.
        validation: Mean of the monitored metric over the seeds, larger is better; -inf where there is none.
    """

    name: str
    kind: str
    model: str
    control: bool
    settings: dict[str, Any]
    folders: list[Path] = field(default_factory=list)
    validation: float = float("-inf")

    @property
    def shown_validation(self) -> str:
        """The same as the metric has it."""
        return "not measured" if self.validation == float("-inf") else f"{abs(self.validation):.4f}"


def find_arms(folders: Iterable[Path]) -> list[FoundArm]:
    """Arms in the order of validation, teachers first.

    Args:
        folders: Of finished trainings; a second one of the same recipe and seed is left out.
    """
    arms: dict[str, FoundArm] = {}
    seen: dict[str, list[float]] = {}
    taken: set[tuple[str, int]] = set()
    for folder in folders:
        record, settings = read_record(folder), _settings(folder)
        key = digest([record["kind"], record["model"], record["method"], settings])
        if (key, record["seed"]) in taken:
            continue
        taken.add((key, record["seed"]))
        arm = arms.setdefault(key, FoundArm(_name(record), record["kind"], record["model"], _control(record), settings))
        arm.folders.append(folder)
        seen.setdefault(key, []).append(_validation(record, settings))
    for key, values in seen.items():
        arms[key].validation = sum(values) / len(values)
    found = sorted(arms.values(), key=lambda arm: (arm.kind != "teacher", -arm.validation))
    _tell_apart(found)
    return found


def _name(record: Mapping[str, Any]) -> str:
    model, method = record["model"], record["method"]
    if record["kind"] == "teacher":
        return f"teacher {model}"
    return f"{model} alone" if _control(record) else f"{model} + {method}"


def _control(record: Mapping[str, Any]) -> bool:
    """The student alone of a pipeline or study; without a teacher there are other methods too."""
    return record["kind"] == "alone" and str(record["label"]).startswith("student alone")


def _validation(record: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    value = next(iter(record["validation"].values()), None)
    sign = -1.0 if settings.get("metrics.mode") == "min" else 1.0
    return float("-inf") if value is None else sign * float(value)


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of a training, dotted."""
    cfg: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    flat = dict(_flat({part: cfg.get(part) for part in (*_PARTS, "metrics")}))
    return {key: value for key, value in flat.items() if not key.startswith(_PLACES)}


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tell_apart(arms: list[FoundArm]) -> None:
    """Add to names that occur twice what the arms differ in."""
    for name, count in Counter(arm.name for arm in arms).items():
        if count == 1:
            continue
        same = [arm for arm in arms if arm.name == name]
        keys = {key for arm in same for key in arm.settings}
        differ = sorted(k for k in keys if len({str(arm.settings.get(k)) for arm in same}) > 1)
        for arm in same:
            told = ", ".join(f"{key.rpartition('.')[2]}={arm.settings.get(key)}" for key in differ[:2])
            arm.name = f"{name} ({told})"
    counts = Counter(arm.name for arm in arms)
    for number, arm in enumerate(arms, 1):
        if counts[arm.name] > 1:
            arm.name = f"{arm.name} #{number}"
