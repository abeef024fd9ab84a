"""Can a term teach anything? A softmax over one output is constant, and what is frozen or cut off has no gradient."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.calls import Signals
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Roles
from kd_lightning.core.terms import Objective, Term, shape_of

# Answers are drawn mild and wild: a loss may rest where the student is good enough.
SCALES = (1.0, 100.0)


def check_teaches(term: Term, arguments: Mapping[str, Any], learning: Collection[str]) -> None:
    """Refuse a term of single outputs that has no gradient, whatever the role that learns answers.

    Args:
        term: With its loss built.
        arguments: Of the loss, on an example.
        learning: Names of the roles that learn.

    Raises:
        ValueError: It teaches nothing; says on what outputs.
    """
    answers = [name for name, source in term.sources.items() if _is_answer(source, learning)]
    single = [arguments[name] for name in answers if arguments[name].shape[-1] == 1]
    if not single or len(single) < len(answers):
        return
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for scale in SCALES:
            drawn = {name: _noise(arguments[name], scale) for name in answers}
            # A copy: memories and moving averages of the loss are not to see noise.
            value = copy.deepcopy(term.loss)(**{**arguments, **drawn})
            if _moves(value, list(drawn.values())):
                return
    raise ValueError(
        f"The term '{term.name}' can teach nothing: whatever the outputs of shape {shape_of(single[0])} are, its"
        " gradient is 0. Over a single output a softmax is constant; for values take a loss of values, such as"
        " method=regression_kd or method=supervised."
    )


def check_gradients(objective: Objective, roles: Roles, signals: Mapping[str, Signals]) -> None:
    """Refuse a term that takes something without a gradient from a role that learns, unless it says ``!detach``.

    Args:
        objective: The terms.
        roles: All of them.
        signals: Of a step of the training, by role.

    Raises:
        ValueError: Names the reference and the term.
    """
    for term in objective:
        for reference in term.references():
            if reference.flag or reference.scope not in roles.trainable:
                continue
            value = roles.by_name[reference.scope].pick(reference, signals[reference.scope])
            for tensor in value if isinstance(value, list) else [value]:
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.requires_grad:
                    raise ValueError(
                        f"{reference}, which the term '{term.name}' trains, carries no gradient: the part of the"
                        " net before it is frozen, or reentrant checkpointing cut it off. Write"
                        f" {reference}!detach if that is meant."
                    )


def _is_answer(source: Any, learning: Collection[str]) -> bool:
    return isinstance(source, Reference) and source.scope in learning and source.name == "logits" and not source.flag


def _noise(like: Tensor, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = scale * torch.randn(like.shape, generator=generator)
    return drawn.to(like).requires_grad_()


def _moves(value: Tensor, answers: list[Tensor]) -> bool:
    """Whether any of the answers has a gradient."""
    if not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value, answers, allow_unused=True)
    return any(one is not None and bool((one != 0).any()) for one in gradients)
