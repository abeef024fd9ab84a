"""Roles of a training: nets with their calls and taps, frozen ones folded where nobody can tell, outputs checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from kd_lightning.cache.topk import TopKCall
from kd_lightning.config import roles, schema
from kd_lightning.config.pretrained import pretrained_name
from kd_lightning.core.follow import Follower
from kd_lightning.core.roles import Role
from kd_lightning.core.terms import Objective
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.text.encode import LANGUAGE_MODELS
from kd_lightning.data.text.tokenizers import Pretrained, has_tokenizer
from kd_lightning.models.anatomy.aliases import propose_aliases
from kd_lightning.models.compress.fold import fold_batchnorm

PRETRAINED = f"{Pretrained.__module__}.{Pretrained.__qualname__}"
TOKENIZER = f"data.tokenizer={{_target_: {PRETRAINED}, name: ...}}"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_learner(role: schema.Role, net: nn.Module, example: Mapping[str, Any]) -> Role:
    """The role that learns."""
    call = instantiate(role.call)
    return Role(roles.LEARNER, net, call, propose_aliases(roles.LEARNER, net, call.arguments(example), role.taps))


def build_followers(settings: schema.Config, learner: Role) -> list[Role]:
    """The roles that follow it, as copies of it before its first step.

    Raises:
        ValueError: A strategy that spreads weights over processes, so that no process has a whole copy.
    """
    followers = roles.followers(settings)
    if followers and str(settings.trainer.strategy) == "fsdp":
        names = ", ".join(followers)
        raise ValueError(f"trainer.strategy=fsdp splits the weights that {names} would follow: take ddp.")
    return [
        Follower(name, learner, instantiate(settings.student.call), role.decay, roles.key_of(name))
        for name, role in followers.items()
    ]


def build_frozen(
    name: str, role: schema.Frozen, objective: Objective, net: nn.Module, example: Mapping[str, Any]
) -> Role:
    """A live frozen role, with batch norms folded where the terms cannot tell."""
    live = _frozen(name, role, net, example)
    if role.fold and "image" in example and _only_features(objective, live):
        live = _frozen(name, role, fold_batchnorm(net, example["image"]), example)
    return live


def _frozen(name: str, role: schema.Frozen, net: nn.Module, example: Mapping[str, Any]) -> Role:
    call, key = instantiate(role.call), roles.key_of(name)
    aliases = propose_aliases(name, net, call.arguments(example), role.taps)
    precision = None if role.precision is None else _dtype(role.precision, key)
    if role.topk is not None:
        call = TopKCall(call, role.topk, key)
    return Role(name, net, call, aliases, trainable=False, precision=precision, key=key)


def _dtype(name: str, key: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ValueError(f"{key}.precision={name}: choose {', '.join(_DTYPES)} or null.")
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
            f" texts. Set {role.key}.net.{task.width}=${{data.{fact}}}, or a larger {role.key}.net.max_length; a"
            f" checkpoint needs its own tokenizer ({TOKENIZER})."
        ) from error
    role.net.train(training)
    if width != expected:
        hint = ""
        if data.target in LANGUAGE_MODELS:
            cut = f"{role.key}.call.vocab_size=${{data.{fact}}}"
            hint = f" A checkpoint needs its own tokenizer ({TOKENIZER}); logits that are only padded are cut by {cut}."
        raise ValueError(
            f"The {role.name} answers with {width} {task.unit}, the data ({data.name}) has {expected}."
            f" Set {role.key}.net.{task.width}=${{data.{fact}}}, or give a checkpoint that was trained on these"
            f" {task.unit}.{hint}"
        )


def check_tokenizer(name: str, role: schema.Role, data: SplitDataModule) -> None:
    """The texts must be in the tokens that a pretrained role was trained with.

    Args:
        name: Of the role.
        role: Its settings.
        data: Prepared data.

    Raises:
        ValueError: Its checkpoint comes with a tokenizer of another vocabulary.
    """
    checkpoint, own = pretrained_name(role.net), bool(role.call.get("prefix"))
    if checkpoint is None or data.kind != "text" or not has_tokenizer(checkpoint):
        return
    used = data.teacher.tokenizer if own else data.tokenizer  # type: ignore[attr-defined]
    try:
        theirs = Pretrained(checkpoint).build(lambda: iter(()), Path()).get_vocab()
    except (FileNotFoundError, ValueError):  # none that is fast, or no network
        return
    wrong = sum(theirs.get(token) != number for token, number in used.get_vocab().items())
    if wrong:
        key = f"data.{'teacher_' if own else ''}tokenizer"
        raise ValueError(
            f"{key} has another vocabulary than the checkpoint {checkpoint} of the {name}: {wrong:,} of its"
            f" {len(used):,} tokens are others there, so that the net would read nonsense. Set"
            f" {key}='{{_target_: {PRETRAINED}, name: {checkpoint}}}', or take a {name} for these tokens."
        )


def check_packing(role: Role, example: Mapping[str, Any]) -> None:
    """Of several texts in a row each must be answered as if it stood alone; masks cannot do that for every net.

    Args:
        role: Any.
        example: A training batch; one without packed texts is as it should be.

    Raises:
        ValueError: What a text is answered depends on the text before it.
    """
    if "segment_ids" not in example or "logits" not in role.call.provides:
        return
    segments = example["segment_ids"]
    row = int(segments.amax(1).argmax())
    second = segments[row] == 2
    if not second.any():
        return
    tokens = {name: example[name][row : row + 1] for name in ("input_ids", "attention_mask", "segment_ids")}
    alone = {name: tokens[name][:, second] for name in ("input_ids", "attention_mask")}
    training = role.net.training
    role.net.eval()
    with torch.no_grad(), role.asked({"logits"}):
        together, apart = (role.call(role.net, batch)["logits"].float() for batch in (tokens, alone))
    role.net.train(training)
    together, finite = together[:, second], apart.isfinite()
    least = torch.finfo(next(role.net.parameters()).dtype).eps ** 0.5
    if not (together - apart)[finite].abs().max() <= 4 * least * apart[finite].abs().max():
        raise ValueError(
            f"{type(role.net).__name__} ({role.name}) does not keep the texts of a row apart: what it says of one"
            " depends on the one before. Set data.packing=false."
        )
