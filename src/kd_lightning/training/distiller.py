"""From a training to the Distiller: roles, objective and optimiser joined, frozen roles live or from their cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra.utils import instantiate
from torch import nn

from kd_lightning.cache.decide import stored_role
from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.cache.placement import place_role
from kd_lightning.cache.store import SignalsOfAll
from kd_lightning.config import schema
from kd_lightning.config.roles import frozen, table
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.metrics import Evaluation
from kd_lightning.core.optim import Scheduler
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.terms import Objective
from kd_lightning.data.sampler import count_views
from kd_lightning.models.anatomy.aliases import match_stages
from kd_lightning.training.objective import build_objective
from kd_lightning.training.precision import decide_precision
from kd_lightning.training.roles import (
    build_followers,
    build_frozen,
    build_learner,
    check_outputs,
    check_packing,
    check_tokenizer,
)
from kd_lightning.training.training import Training


def build_distiller(training: Training, net: nn.Module, trainings: int = 1) -> tuple[Distiller, schema.Config]:
    """Join the parts; fails here where they do not fit together.

    Args:
        training: Its data's order, views and stored signals are set to those of the training.
        net: The net that learns.
        trainings: How many trainings of this command want the same of a frozen role, for ``teacher.cache=auto``.

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
    learner = build_learner(training.learner, net, example)
    nets, known = training.frozen, frozen(settings)
    lives = [build_frozen(name, known[name], objective, own, example) for name, own in nets.items()]
    for role in (learner, *lives):
        check_tokenizer(role.name, table(settings)[role.name], data)
        check_outputs(role, example, data)
        check_packing(role, example)
    settings = replace(settings, trainer=decide_precision(settings, net, example, data.task.output))
    roles, example = _served(replace(training, settings=settings), objective, learner, lives, example, trainings)
    rollout = instantiate(settings.method.rollout)
    if hasattr(rollout, "attach"):
        rollout.attach(data)
    return _distiller(settings, training, roles, objective, example, rollout), settings


def _served(
    training: Training, objective: Objective, learner: Role, lives: list[Role], example: dict[str, Any], trainings: int
) -> tuple[list[Role], dict[str, Any]]:
    """The roles with stages that match, frozen ones live or from their cache; and the example with what is stored."""
    settings, data = training.settings, training.data
    references = [reference for term in objective for reference in term.references()]
    match_stages([learner, *lives], references, {name: role.taps for name, role in table(settings).items()})
    roles, every = [learner, *build_followers(settings, learner)], []
    for live in lives:
        own = FrozenRole(settings, frozen(settings)[live.name], data, live, training.frozen[live.name])
        served, stored = stored_role(own, references, example, trainings)
        if own.serving.placement is not None:
            place_role(own, learner, example, cached=stored is not None)
        roles.append(served)
        every += [] if stored is None else [stored]
    if not every:
        return roles, example
    data.signals = SignalsOfAll(every)
    return roles, {**example, **data.signals(example["index"], example["view"])}


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
