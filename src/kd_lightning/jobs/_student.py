"""What the student learns before its arms part: ``student.fit``, such as general distillation on plain text."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_lightning.jobs._assemble import build_data, build_net, needs_teacher
from kd_lightning.jobs._stored import fit_stored, laid_over

# Replaced as a whole: merged, they would keep the arguments of the student's own task.
WHOLE = ("data", "method", "metrics")


def prepare_student(cfg: DictConfig) -> None:
    """Train the body of the student where ``student.fit`` says so, or find it finished; ``student.body`` names it.

    The teacher is the one that ``model@teacher`` builds, before it is trained on the task; student and teacher are
    built for the task of ``student.fit.data``.

    Args:
        cfg: The whole configuration; ``student.body`` is set.
    """
    if cfg.student.fit is None:
        return
    own = student_cfg(cfg)
    data = build_data(own)
    teacher = build_net(own.teacher, own.teacher.seed).eval() if needs_teacher(own.method) else None
    label = f"student {own.student.name} before the task ({own.method.name} on {own.data.name})"
    cfg.student.body = str(fit_stored(own, data, label, "distilled", teacher).folder)


def student_cfg(cfg: DictConfig) -> DictConfig:
    """The configuration of that training: ``student.fit`` laid over the whole one."""
    plain: Any = OmegaConf.to_container(cfg)
    fit = dict(plain["student"]["fit"])
    for key in WHOLE:
        plain[key] = fit.pop(key, plain[key])
    plain["student"]["fit"] = None
    plain["seed"] = cfg.teacher.seed
    return laid_over(plain, fit)
