"""From a training to the Distiller: roles, objective and optimiser joined, frozen roles live or from their cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from kd_lightning.cache.decide import stored_role
from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.cache.placement import place_role
from kd_lightning.cache.store import SignalsOfAll, StoredSignals
from kd_lightning.config import schema
from kd_lightning.config.explain import near
from kd_lightning.config.roles import TEACHER, frozen, table, with_serving
from kd_lightning.config.schedule import of_run
from kd_lightning.core.batch import first_rows
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.metrics import Evaluation
from kd_lightning.core.modes import evaluating
from kd_lightning.core.optim import Scheduler
from kd_lightning.core.quiet import quiet
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.schedules import Progress
from kd_lightning.core.terms import Objective
from kd_lightning.data.base import Batch, SplitDataModule
from kd_lightning.data.sampler import count_views
from kd_lightning.models.anatomy.aliases import match_stages
from kd_lightning.training.nets import student_net
from kd_lightning.training.objective import build_objective
from kd_lightning.training.precision import AUTO, FULL, decide_precision
from kd_lightning.training.roles import (
    build_followers,
    build_frozen,
    build_learner,
    check_outputs,
    check_packing,
    check_tokenizer,
)
from kd_lightning.training.training import Training

# Samples that shapes are found out on, on the CPU: a batch of all processes takes a large teacher minutes there.
EXAMPLE = 8


def build_distiller(
    training: Training, net: nn.Module, trainings: int = 1, batch: Batch | None = None
) -> tuple[Distiller, schema.Config]:
    """Join the parts; fails here where they do not fit together.

    Args:
        training: Its data's order, views and stored signals are set to those of the training.
        net: The net that learns.
        trainings: How many trainings of this command want the same of a frozen role, for ``teacher.cache=auto``.
        batch: Of the training split, on the CPU; None: one is read.

    Returns:
        The module, and the settings with the precision that was decided.

    Raises:
        ValueError: Where a net does not answer with the data's number of classes, or a reference leads nowhere.
    """
    settings, data = training.settings, training.data
    # The order is the arm's own; the augmented views are the same for all, so that they can share a teacher cache.
    data.order_seed, data.num_views, data.signals = settings.seed, count_views(settings.data.get("views")), None
    batch = read_batch(data) if batch is None else batch
    example = first_rows(batch, EXAMPLE)
    objective = build_objective(settings.method)
    learner = build_learner(training.learner, net, example)
    nets, known = training.frozen, frozen(settings)
    lives = [build_frozen(name, known[name], objective, own, example) for name, own in nets.items()]
    for role in (learner, *lives):
        check_tokenizer(role.name, table(settings)[role.name], data)
        check_outputs(role, example, data)
        check_packing(role, example)
    settings = replace(settings, trainer=decide_precision(settings, net, batch, data.task.output))
    roles, stored = _served(replace(training, settings=settings), objective, learner, lives, batch, trainings)
    if stored:
        data.signals = SignalsOfAll(stored)
        example = {**example, **data.signals(example["index"], example["view"])}
    rollout = instantiate(settings.method.rollout)
    if hasattr(rollout, "attach"):
        rollout.attach(data)
    return _distiller(settings, training, roles, objective, example, rollout), settings


def read_batch(data: SplitDataModule) -> Batch:
    """A batch of the training split, on the CPU."""
    return data.ready(next(iter(data.loader("train", train=True))))


def rehearse(training: Training, batch: Batch) -> None:
    """Join the parts of a training and compute its terms once on a few samples; nothing is stored, timed or learnt.

    Args:
        training: Its frozen nets need not have learnt anything.
        batch: See :func:`read_batch`.

    Raises:
        ValueError: Parts that do not fit together.
    """
    settings = with_serving(training.settings, cache="off", placement=None)
    if settings.trainer.precision == AUTO:
        settings = replace(settings, trainer=replace(settings.trainer, precision=FULL))
    net = student_net(settings, training.frozen.get(TEACHER))
    distiller, _ = build_distiller(replace(training, settings=settings), net, batch=batch)
    try:
        few = first_rows(batch, EXAMPLE)
        with torch.random.fork_rng(devices=[]):
            distiller.terms(distiller.prepare_batch(few), Progress())
        _check_monitor(distiller, few, settings.metrics.monitor)
        distiller.configure_optimizers()
    finally:
        distiller.roles.release()


def _check_monitor(distiller: Distiller, batch: Batch, monitor: str) -> None:
    """Refuse to choose by what validation does not measure; what the training logs is not known before."""
    with torch.no_grad(), evaluating(distiller), quiet():
        names = [name for metrics in distiller.measure(batch, "val") for name in metrics.compute()]
    if names and monitor.startswith("val/") and monitor not in names:
        raise ValueError(f"metrics.monitor={monitor}: validation does not measure that. {near(monitor, names)}")


def _served(
    training: Training, objective: Objective, learner: Role, lives: list[Role], batch: Batch, trainings: int
) -> tuple[list[Role], list[StoredSignals]]:
    """The roles with stages that match, frozen ones live or from their cache; and what is stored of them."""
    settings, data = training.settings, training.data
    references = [reference for term in objective for reference in term.references()]
    match_stages([learner, *lives], references, {name: role.taps for name, role in table(settings).items()})
    roles, every = [learner, *build_followers(settings, learner)], []
    for live in lives:
        own = FrozenRole(settings, frozen(settings)[live.name], data, live, training.frozen[live.name])
        served, stored = stored_role(own, references, batch, trainings)
        if own.serving.placement is not None:
            place_role(own, learner, batch, cached=stored is not None)
        roles.append(served)
        every += [] if stored is None else [stored]
    return roles, every


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
        else Scheduler(instantiate(of_run(scheduler, settings.trainer)), scheduler.interval, scheduler.monitor),
        evaluation=Evaluation(
            {str(name): instantiate(node) for name, node in metrics.metrics.items()}, dict(metrics.inputs)
        ),
        rollout=rollout,
        seed=settings.seed,
        channels_last=settings.trainer.channels_last,
        compile=settings.compile,
    )
