"""Where an exported student comes from: run, data, teacher, licences, software."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.config.roles import frozen, key_of
from kd_lightning.config.schema_jobs import Export
from kd_lightning.config.two_tokenizers import two_tokenizers
from kd_lightning.data.base import SplitDataModule
from kd_lightning.deploy.check import Reference
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.upstream import is_given, role_place
from kd_lightning.files.artifact import RECORD, TEST, WEIGHTS, Artifact
from kd_lightning.measures.cost import count_parameters
from kd_lightning.training.objective import asked_roles

log = logging.getLogger("kd_lightning")


def describe(artifact: Artifact, data: SplitDataModule, net: nn.Module) -> dict[str, Any]:
    """All of the record that is not measured."""
    return {
        "model": artifact.record["model"],
        "task": data.task.name,
        "takes": data.kind,
        "method": artifact.record["method"],
        "seed": artifact.record["seed"],
        "identity": artifact.record["identity"],
        "run": str(artifact.folder),
        "date": date.today().isoformat(),
        "parameters": count_parameters(net),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "split_fingerprint": data.split.fingerprint,
            **{name: len(data.split[name]) for name in ("train", "validation", "test")},
        },
        "software": {"python": platform.python_version(), **_versions()},
        "machine": _cpu(),
        "threads": torch.get_num_threads(),
    }


def licences(export: Export, before: dict[str, str | None]) -> dict[str, str | None]:
    """Licences as they were set; what is not set stays as an earlier export had it."""
    given = {"student": export.license, "teacher": export.teacher_license, "data": export.data_license}
    return {name: before.get(name) if licence is None else licence for name, licence in given.items()}


def teacher_of(settled: Settled, reference: Reference) -> dict[str, Any] | None:
    """Name, accuracy and folder of the teacher; no folder where it was not trained by us; None where none is used.

    Where the student has learnt from other roles than that: which one it is, and under ``others`` those that follow.
    """
    found = {name: _described(settled, name) for name in _asked(settled)}
    if not found:
        return None
    first, *others = found
    accuracy = None if reference.teacher is None else round(reference.accuracy(reference.teacher), 6)
    record = {**found[first], "accuracy": accuracy}
    if settled.settings.roles:
        record |= {"role": first, "others": [{"role": name, **found[name]} for name in others]}
    return record


def _described(settled: Settled, name: str) -> dict[str, Any]:
    """Model and folder of a frozen role."""
    role = frozen(settled.settings)[name]
    folder = None if is_given(role) else _stored(settled, name)
    return {"name": role.name, "folder": None if folder is None else str(folder)}


def teacher_logits(settled: Settled, run: Path) -> Tensor | None:
    """What the teacher said of the test split when it was measured, (N, C); None where that is not kept."""
    settings, name = settled.settings, next(iter(_asked(settled)), None)
    if name is None or two_tokenizers(settings):  # of other tokens it says nothing here
        return None
    folder = run / key_of(name) if is_given(frozen(settings)[name]) else _stored(settled, name)
    if folder is None or not (folder / TEST).is_file():
        return None
    own = (folder / RECORD).is_file()  # of a teacher that was given there is none
    return load_file(Artifact.open(folder).file(TEST) if own else folder / TEST)["logits"]


def _asked(settled: Settled) -> list[str]:
    """The frozen roles that the student has learnt from; first the one that it is measured against."""
    asked = asked_roles(settled.settings)
    return [name for name in frozen(settled.settings) if name in asked]


def _stored(settled: Settled, name: str) -> Path | None:
    """A role's folder in the store, absolute; None where it is gone."""
    try:
        folder = role_place(settled, name).absolute()
    except OmegaConfBaseException as error:  # the run was made with other settings than there are now
        log.warning(f"The {name} of this run cannot be found again: {str(error).splitlines()[0]}")
        return None
    return folder if (folder / WEIGHTS).is_file() else None


def _versions() -> dict[str, str]:
    found = {}
    of_formats = (package for each in FORMATS.values() for package in each.packages)
    for name in dict.fromkeys(["kd-lightning", "torch", "lightning", *of_formats, "numpy", "pillow"]):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
