"""Choosing the training samples of the student before it is trained: ``data.select``."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.select import Rules, make_rules, select_samples
from kd_lightning.jobs._arm import fit_arm
from kd_lightning.jobs._assemble import build_net
from kd_lightning.jobs._cache_live import accelerator
from kd_lightning.jobs._load import load_run
from kd_lightning.jobs._predictions import predict
from kd_lightning.runs import is_main_process, write_json

log = logging.getLogger("kd_lightning")

FILE = "selection.json"


def select_training(cfg: DictConfig, data: SplitDataModule, teacher: nn.Module, folder: Path) -> dict[str, Any] | None:
    """Leave in the training split what ``data.select`` keeps; does nothing where it is null.

    Call it once, after the teacher is there and before a student is trained: the teacher learns from everything.
    The other splits stay as they are.

    Args:
        cfg: The whole configuration.
        data: Prepared data; changed in place, of any modality.
        teacher: The teacher's net.
        folder: Of the run: ``selection.json`` is written there, and a pilot is trained there.

    Returns:
        What was kept and why, as JSON values; None where nothing was asked.

    Raises:
        ValueError: A rule that is not known, or a task without classes.
    """
    given = cfg.data.get("select")
    if given is None:
        return None
    plain: Any = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    rules = make_rules(plain)
    if data.task != "classification":
        raise ValueError(
            f"data.select judges samples by the class that the teacher gives them; data.task={data.task} has none."
            " Set data.select=null."
        )
    log.info(f"data.select: asking the teacher about {data.num_samples:,} training samples ...")
    pilot = None if rules.pilot is None else _pilot(cfg, rules, data, folder)
    logits = _logits(teacher, cfg.teacher, cfg, data)
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


def _logits(net: nn.Module, role: DictConfig, cfg: DictConfig, data: SplitDataModule) -> Tensor:
    """Logits over the training split, (N, C)."""
    return predict(net, instantiate(role.call), "train", data, accelerator(cfg)).rows["logits"]


def _pilot(cfg: DictConfig, rules: Rules, data: SplitDataModule, folder: Path) -> Tensor:
    """Logits of the pilot student: of a finished run, of weights for this student, or trained here alone."""
    assert rules.pilot is not None
    if rules.pilot == "train":
        if cfg.baseline is None:
            raise ValueError("data.select.pilot=train trains the student by the method `baseline`, which is null.")
        own = copy.deepcopy(cfg)
        own.seeds, own.method = None, own.baseline
        with open_dict(own.data):
            own.data.select = None
        net = fit_arm(own, folder / "pilot", data, None, "pilot student", "alone").net
    elif Path(rules.pilot).is_dir():
        run = load_run(rules.pilot)
        return _logits(run.net, run.cfg.student, cfg, data)
    else:
        student = copy.deepcopy(cfg.student)
        student.checkpoint = rules.pilot
        net = build_net(student, cfg.seed).eval()
    return _logits(net, cfg.student, cfg, data)
