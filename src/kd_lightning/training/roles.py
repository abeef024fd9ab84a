"""Roles of a training: nets with their calls and taps, the teacher folded where nobody can tell, outputs checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from kd_lightning.cache.topk import TopKCall
from kd_lightning.config import schema
from kd_lightning.core.roles import Role
from kd_lightning.core.terms import Objective
from kd_lightning.data.base import SplitDataModule
from kd_lightning.models.anatomy.aliases import propose_aliases
from kd_lightning.models.compress.fold import fold_batchnorm

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_student(role: schema.Role, net: nn.Module, example: Mapping[str, Any]) -> Role:
    """The role that learns."""
    call = instantiate(role.call)
    return Role("student", net, call, propose_aliases("student", net, call.arguments(example), role.taps))


def build_teacher(role: schema.Teacher, objective: Objective, net: nn.Module, example: Mapping[str, Any]) -> Role:
    """The live teacher, with batch norms folded where the terms cannot tell."""
    live = _frozen(role, net, example)
    if role.fold and "image" in example and _only_features(objective, live):
        live = _frozen(role, fold_batchnorm(net, example["image"]), example)
    return live


def _frozen(role: schema.Teacher, net: nn.Module, example: Mapping[str, Any]) -> Role:
    call = instantiate(role.call)
    aliases = propose_aliases("teacher", net, call.arguments(example), role.taps)
    precision = None if role.precision is None else _dtype(role.precision)
    if role.topk is not None:
        call = TopKCall(call, role.topk)
    return Role("teacher", net, call, aliases, trainable=False, precision=precision)


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ValueError(f"teacher.precision={name}: choose {', '.join(_DTYPES)} or null.")
    return _DTYPES[name]


def _only_features(objective: Objective, role: Role) -> bool:
    """Whether the terms ask the role for signals and features only: those are the same when batch norms are folded."""
    references = [r for term in objective for r in term.references() if r.scope == role.name]
    known = {*role.call.provides, *role.aliases}
    return all(r.flag != "module" and r.name in known for r in references)


def check_outputs(role: Role, example: Mapping[str, Any], data: SplitDataModule) -> None:
    """A role must answer as wide as the task of the data asks: with its classes, or its tokens.

    Args:
        role: Any.
        example: A training batch.
        data: Prepared data.

    Raises:
        ValueError: With the number that it has and the one that it needs.
    """
    task = data.task
    if task.width is None or task.output not in role.call.provides:
        return
    fact = f"{getattr(role.call, 'prefix', '')}{task.width}"  # of a role with a tokenizer of its own
    expected = data.facts[fact]
    training = role.net.training
    role.net.eval()
    try:
        with torch.no_grad():
            width = role.call(role.net, example)[task.output].shape[-1]
    except IndexError as error:  # of an embedding
        raise ValueError(
            f"The {role.name} does not know all {expected} tokens of the data ({data.name}), or takes shorter"
            f" texts. Set {role.name}.net.{task.width}=${{data.{fact}}}, or a larger {role.name}.net.max_length."
        ) from error
    role.net.train(training)
    if width != expected:
        raise ValueError(
            f"The {role.name} answers with {width} {task.unit}, the data ({data.name}) has {expected}."
            f" Set {role.name}.net.{task.width}=${{data.{fact}}}, or give a checkpoint that was trained on these"
            f" {task.unit}."
        )
