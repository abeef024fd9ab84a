"""From a training to the Distiller: roles, objective and optimiser joined, the teacher live or from its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra.utils import instantiate
from torch import nn

from kd_lightning.cache.decide import stored_teacher
from kd_lightning.cache.placement import place_teacher
from kd_lightning.config import schema
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.metrics import Evaluation
from kd_lightning.core.optim import Scheduler
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.terms import Objective
from kd_lightning.data.sampler import count_views
from kd_lightning.models.anatomy.aliases import match_stages
from kd_lightning.training.objective import build_objective
from kd_lightning.training.precision import decide_precision
from kd_lightning.training.roles import build_student, build_teacher, check_outputs
from kd_lightning.training.training import Training


def build_distiller(training: Training, net: nn.Module, trainings: int = 1) -> tuple[Distiller, schema.Config]:
    """Join the parts; fails here where they do not fit together.

    Args:
        training: Its data's order, views and stored signals are set to those of the training.
        net: The net that learns.
        trainings: How many trainings of this command want the same of the teacher, for ``teacher.cache=auto``.

    Returns:
        The module, and the settings with the precision that was decided.

    Raises:
        ValueError: Where a net does not answer with the data's number of classes, or a reference leads nowhere.
    """
    settings, data = training.settings, training.data
    # The order is the arm's own; the augmented views are the same for all, so that they can share a teacher cache.
    data.order_seed, data.num_views, data.signals = settings.seed, count_views(settings.data.get("views")), None
    example = data.ready(next(iter(data.loader("train", train=True))))
    objective = build_objective(settings.method)
    roles = [build_student(settings.student, net, example)]
    if training.teacher is not None:
        roles.append(build_teacher(settings.teacher, objective, training.teacher, example))
    for role in roles:
        check_outputs(role, example, data)
    settings = replace(settings, trainer=decide_precision(settings, net, example, data.task.output))
    roles, example = _served(replace(training, settings=settings), objective, roles, example, trainings)
    rollout = instantiate(settings.method.rollout)
    if hasattr(rollout, "attach"):
        rollout.attach(data)
    return _distiller(settings, training, roles, objective, example, rollout), settings


def _served(
    training: Training, objective: Objective, roles: list[Role], example: dict[str, Any], trainings: int
) -> tuple[list[Role], dict[str, Any]]:
    """The roles with stages that match, the teacher live or from its cache; and the example with what is stored."""
    settings, data = training.settings, training.data
    references = [reference for term in objective for reference in term.references()]
    match_stages(roles, references, {"student": settings.student.taps, "teacher": settings.teacher.taps})
    if training.teacher is None:
        return roles, example
    student, live = roles
    served, example = stored_teacher(settings, data, live, training.teacher, references, example, trainings)
    if settings.teacher.placement is not None:
        place_teacher(settings, data, live, student, example, cached=served is not live)
    return [student, served], example


def _distiller(
    settings: schema.Config,
    training: Training,
    roles: list[Role],
    objective: Objective,
    example: Mapping[str, Any],
    rollout: Any,
) -> Distiller:
    data, metrics, scheduler = training.data, settings.metrics, settings.scheduler
    return Distiller(
        Roles(roles),
        objective,
        example,
        facts={**data.facts, "num_classes": data.num_classes, "num_samples": data.num_samples},
        optimizer=instantiate(settings.optimizer),
        scheduler=None
        if scheduler.factory is None
        else Scheduler(instantiate(scheduler.factory), scheduler.interval, scheduler.monitor),
        evaluation=Evaluation(
            {str(name): instantiate(node) for name, node in metrics.metrics.items()}, dict(metrics.inputs)
        ),
        rollout=rollout,
        seed=settings.seed,
        channels_last=settings.trainer.channels_last,
        compile=settings.compile,
    )
