"""The teacher: trained, loaded, or found among those trained before."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from kd_lightning.data.module import KDDataModule
from kd_lightning.jobs._arm import FittedArm, arm_identity, fit_arm
from kd_lightning.jobs._assemble import build_net

log = logging.getLogger("kd_lightning")


def teacher_cfg(cfg: DictConfig) -> DictConfig:
    """The configuration under which the teacher is trained: its net as the student, ``teacher.fit`` on top."""
    merged = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    OmegaConf.set_struct(merged, False)
    overlay = OmegaConf.to_container(cfg.teacher.fit)
    role = {key: cfg.teacher[key] for key in cfg.student}
    # A method is replaced as a whole: merging would keep the student's terms.
    merged.method = OmegaConf.merge(cfg.method, {"terms": {}})
    merged.method.terms = {}
    merged = OmegaConf.merge(merged, overlay, {"student": role, "seed": cfg.teacher.seed, "ckpt_path": None})
    merged.method.stages, merged.method.rollout, merged.method.student_wrapper = [], None, None
    assert isinstance(merged, DictConfig)
    return merged


def obtain_teacher(cfg: DictConfig, data: KDDataModule) -> tuple[nn.Module, FittedArm | None]:
    """The teacher's net in eval mode, and its arm where it was trained here or before.

    Args:
        cfg: The whole configuration.
        data: Prepared data.
    """
    if cfg.teacher.checkpoint is not None or cfg.teacher.fit is None:
        net = build_net(cfg.teacher, cfg.teacher.seed)
        log.info(f"teacher {cfg.teacher.name}: {cfg.teacher.checkpoint or 'used as it is built'}")
        return net.eval(), None
    own = teacher_cfg(cfg)
    folder = Path(cfg.teacher.store) / f"{cfg.teacher.name}-{arm_identity(own, data, None)}"
    arm = fit_arm(own, folder, data, label=f"teacher {cfg.teacher.name}", kind="teacher")
    return arm.net, arm
