"""The teacher: trained, loaded, or found among those trained before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.jobs._arm import FittedArm
from kd_lightning.jobs._assemble import build_data, build_net
from kd_lightning.jobs._load import student_folder
from kd_lightning.jobs._stored import fit_stored, laid_over
from kd_lightning.jobs._two_tokenizers import check_prefix, two_tokenizers, with_teacher_tokens
from kd_lightning.schema import Config

log = logging.getLogger("kd_lightning")


def teacher_cfg(cfg: DictConfig) -> DictConfig:
    """The configuration under which the teacher is trained: its net as the student, ``teacher.fit`` on top."""
    plain: Any = OmegaConf.to_container(_before_refinement(cfg))
    fit = dict(plain["teacher"]["fit"])
    # Net and method are replaced as a whole: merging would keep the student's arguments and terms.
    plain["student"] = {key: plain["teacher"][key] for key in plain["student"]} | {"fit": None}
    plain["method"] = fit.pop("method", plain["method"])
    plain["seed"] = plain["teacher"]["seed"]
    for own in ("views", "select"):  # what the student sees of the data is not the teacher's business
        plain["data"].pop(own, None)
    with_teacher_tokens(plain)
    return laid_over(plain, fit)


def _before_refinement(cfg: DictConfig) -> DictConfig:
    """The configuration that the student was first trained under, where ``cfg`` refines it with the same teacher.

    The few epochs and the small learning rate of a refinement are not the teacher's: such a teacher would be worse than
    the student, and spoil it.
    """
    source = cfg.student.checkpoint
    if not cfg.student.get("quantise") or source is None or not Path(source).is_dir():
        return cfg
    first = OmegaConf.load(student_folder(Path(source)) / "config.yaml")
    first = OmegaConf.merge(OmegaConf.structured(Config), first)  # a run of before may lack what came later
    assert isinstance(first, DictConfig)
    first.teacher.store, first.logger = cfg.teacher.store, cfg.logger
    both = [[OmegaConf.to_container(one[key], resolve=True) for key in ("teacher", "data")] for one in (first, cfg)]
    return first if both[0] == both[1] else cfg


def obtain_teacher(cfg: DictConfig, data: SplitDataModule) -> tuple[nn.Module, FittedArm | None]:
    """The teacher's net in eval mode, and its arm where it was trained here or before.

    Args:
        cfg: The whole configuration.
        data: Prepared data.
    """
    check_prefix(cfg)
    if cfg.teacher.checkpoint is not None or cfg.teacher.fit is None:
        net = build_net(cfg.teacher, cfg.teacher.seed)
        log.info(f"teacher {cfg.teacher.name}: {cfg.teacher.checkpoint or 'used as it is built'}")
        return net.eval(), None
    own = teacher_cfg(cfg)
    arm = fit_stored(own, teacher_data(cfg, own, data), f"teacher {cfg.teacher.name}", "teacher")
    return arm.net, arm


def teacher_data(cfg: DictConfig, own: DictConfig, data: SplitDataModule) -> SplitDataModule:
    """What the teacher is trained on under ``own`` (see ``teacher_cfg``): the data, or the same in its own tokens."""
    return build_data(own) if two_tokenizers(cfg) else data
