"""Choosing the training samples of the student before it is trained: ``data.select``."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from kd_lightning.config.roles import with_roles
from kd_lightning.config.schema import Config, Role
from kd_lightning.core.device import training_device
from kd_lightning.core.ranks import is_main_process
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.select import Rules, make_rules, select_samples
from kd_lightning.data.targets import CLASSES
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.source import Source
from kd_lightning.files.artifact import Part
from kd_lightning.files.runs import write_json
from kd_lightning.training.fit import fit
from kd_lightning.training.nets import build_net, load_net, load_run
from kd_lightning.training.predictions import predict
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")

FILE = "selection.json"


def select_training(settled: Settled, data: SplitDataModule, teacher: Source, folder: Path) -> dict[str, Any] | None:
    """Leave in the training split what ``data.select`` keeps; does nothing where it is null.

    Call it once, after the teacher is there and before a student is trained: the teacher learns from everything.
    The other splits stay as they are.

    Args:
        settled: The whole configuration.
        data: Prepared data; changed in place, of any modality.
        teacher: The frozen role that judges them.
        folder: Of the run: ``selection.json`` is written there, and a pilot is trained there.

    Returns:
        What was kept and why, as JSON values; None where nothing was asked.

    Raises:
        ValueError: A rule that is not known, or a task without classes.
    """
    settings = settled.settings
    given = settings.data.get("select")
    if given is None:
        return None
    rules = make_rules(given)
    if data.target is not CLASSES:
        raise ValueError(
            f"data.select judges samples by the class that the teacher gives them; data.task={data.task} has none."
            " Set data.select=null."
        )
    log.info(f"data.select: asking the teacher about {data.num_samples:,} training samples ...")
    pilot = None if rules.pilot is None else _pilot(settled, rules, data, folder)
    logits = _logits(teacher.net, teacher.role, settings, data)
    selection = select_samples(rules, logits, data.targets("train"), pilot)
    had = data.targets("train")[selection.index]
    new = bool((selection.labels != had).any())
    data.choose(selection.index, selection.weights, selection.labels if new else None)
    record = {"rules": vars(rules), "classes": list(data.class_names), **selection.record}
    log.info(
        f"data.select: {record['kept']} of {record['samples']} training samples kept"
        f" ({record['kept_by_floor']} of them by a floor), {record['unlabelled_kept']} without a label"
    )
    if is_main_process():
        write_json(folder / FILE, record)
    return record


def selection_remarks(folder: Path) -> list[str]:
    """What a report says of the choice that was made in a run; nothing where none was."""
    try:
        record: dict[str, Any] = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return []
    left_out = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in record["left_out_by"].items() if count]
    by_class = [
        f"{name} {kept:,} of {all_of:,}"
        for name, kept, all_of in zip(record["classes"], record["kept_of_class"], record["of_class"], strict=False)
    ]
    return [
        f"data.select kept {record['kept']:,} of {record['samples']:,} training samples"
        + (f" (left out: {', '.join(left_out)})" if left_out else "")
        + (f": {'; '.join(by_class)}." if len(by_class) <= 20 else ".")
    ]


def _logits(net: nn.Module, role: Role, settings: Config, data: SplitDataModule) -> Tensor:
    """Logits over the training split, (N, C)."""
    device = training_device(settings.trainer.accelerator, settings.trainer.devices)
    return predict(net, instantiate(role.call), "train", data, device).rows["logits"]


def _pilot(settled: Settled, rules: Rules, data: SplitDataModule, folder: Path) -> Tensor:
    """Logits of the pilot student: of a finished run, of weights for this student, or trained here alone."""
    assert rules.pilot is not None
    settings = settled.settings
    if rules.pilot == "train":
        training = Training(with_roles(settled.of_pilot(), ()), data, {}, "pilot student", Part.ALONE)
        net = load_net(fit(training, folder / "pilot"))
    elif Path(rules.pilot).is_dir():
        run = load_run(rules.pilot)
        return _logits(load_net(run), run.settings.student, settings, data)
    else:
        net = build_net(replace(settings.student, checkpoint=rules.pilot), settings.seed).eval()
    return _logits(net, settings.student, settings, data)
