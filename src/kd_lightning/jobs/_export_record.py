"""Where an exported student comes from: run, data, teacher, licences, software."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.deploy.check import Reference
from kd_lightning.jobs._arm import FittedArm
from kd_lightning.jobs._assemble import needs_teacher
from kd_lightning.jobs._stored import stored_folder
from kd_lightning.jobs._teacher import teacher_cfg, teacher_data
from kd_lightning.jobs._two_tokenizers import two_tokenizers
from kd_lightning.report.measure import count_parameters

log = logging.getLogger("kd_lightning")

SOFTWARE = ("kd-lightning", "torch", "lightning", "onnx", "onnxruntime", "executorch", "torchao", "numpy", "pillow")


def describe(arm: FittedArm, data: SplitDataModule, net: nn.Module) -> dict[str, Any]:
    """All of the record that is not measured."""
    return {
        "model": arm.record["model"],
        "task": data.kind,
        "method": arm.record["method"],
        "seed": arm.record["seed"],
        "identity": arm.record["identity"],
        "run": str(arm.folder),
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


def licences(cfg: DictConfig, before: dict[str, str | None]) -> dict[str, str | None]:
    """Licences as they were set; what is not set stays as an earlier export had it."""
    given = {"student": cfg.export.license, "teacher": cfg.export.teacher_license, "data": cfg.export.data_license}
    return {name: before.get(name) if licence is None else licence for name, licence in given.items()}


def teacher_of(cfg: DictConfig, data: SplitDataModule, reference: Reference) -> dict[str, Any] | None:
    """Name, accuracy and folder of the teacher; no folder where it was not trained by us; None where none is used."""
    if not needs_teacher(cfg.method):
        return None
    folder = None if _given(cfg) else _stored(cfg, data)
    accuracy = None if reference.teacher is None else round(reference.accuracy(reference.teacher), 6)
    return {"name": cfg.teacher.name, "accuracy": accuracy, "folder": None if folder is None else str(folder)}


def teacher_logits(cfg: DictConfig, data: SplitDataModule, run: Path) -> Tensor | None:
    """What the teacher said of the test split when it was measured, (N, C); None where that is not kept."""
    if not needs_teacher(cfg.method) or two_tokenizers(cfg):  # what it says of other tokens says nothing here
        return None
    folder = run / "teacher" if _given(cfg) else _stored(cfg, data)
    if folder is None or not (folder / "test.safetensors").is_file():
        return None
    return load_file(folder / "test.safetensors")["logits"]


def _given(cfg: DictConfig) -> bool:
    """Whether the teacher comes from elsewhere, not from the store."""
    return cfg.teacher.checkpoint is not None or cfg.teacher.fit is None


def _stored(cfg: DictConfig, data: SplitDataModule) -> Path | None:
    """The teacher's folder in the store, absolute; None where it is gone."""
    try:
        own = teacher_cfg(cfg)
    except OmegaConfBaseException as error:  # the run was made with other settings than there are now
        log.warning(f"The teacher of this run cannot be found again: {str(error).splitlines()[0]}")
        return None
    folder = stored_folder(own, teacher_data(cfg, own, data)).absolute()
    return folder if (folder / "student.safetensors").is_file() else None


def _versions() -> dict[str, str]:
    found = {}
    for name in SOFTWARE:
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
