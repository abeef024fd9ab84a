"""What a net does to its logits after its head, found out by asking it: terms on the head make the net's own logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.calls import Batch
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.core.terms import Term
from kd_lightning.losses.ops.heads import Finish, FinishedHead

STATES = "last_hidden_state"
# What the head is made to give: large and small, of both signs, in an order that tells something even of two classes.
_SIZES = (0, 20, -20, 5, 9, -10, 14, -6, 3)
# Samples, and tokens of each, that are enough to see what happens to them.
_FEW = 2, 8


def read_heads(roles: Iterable[Role], terms: Iterable[Term], batch: Batch) -> None:
    """Tell the roles what comes after their heads, as far as terms work on these.

    A head that is handed to a term is multiplied by hand, so that what the net does after it (soft caps, scales,
    columns cut off) would be left out. Every net is asked what that is: its head is made to give known numbers.

    Args:
        roles: In eval mode; a gradient is not needed.
        terms: Of the method.
        batch: An example.

    Raises:
        ValueError: It is neither a scale nor a soft cap, or the states that a term takes are not what the head reads.
    """
    terms = list(terms)
    for role in roles:
        place = role.aliases.get("head")
        asking = [term for term in terms if isinstance(place, str) and _asks(term, role, place)]
        if asking:
            assert isinstance(place, str)
            states = any(r.scope == role.name and r.name == STATES for term in asking for r in term.references())
            role.heads[place] = _finished(role, place, _few(batch), states, asking[0])


def _asks(term: Term, role: Role, place: str) -> bool:
    """Whether a term takes the head itself."""
    return any(r.scope == role.name and r.flag == "module" and role.places(r) == place for r in term.references())


def _few(batch: Batch) -> dict[str, Any]:
    """A corner of the batch."""
    samples, tokens = _FEW

    def corner(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        value = value[:samples]
        return value[:, :tokens] if value.dim() == 2 and not value.is_floating_point() else value

    return {name: corner(value) for name, value in batch.items()}


def _finished(role: Role, place: str, batch: Batch, states: bool, term: Term) -> nn.Module:
    """The head, with what comes after it where anything does."""
    head = role.pick(Reference(role.name, place, flag="module"), {})
    read: list[Tensor] = []
    given: list[Tensor] = []

    def instead(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        read.append(args[0])
        given.append(_known(output))
        return given[-1].clone()  # some nets write into it

    handle = head.register_forward_hook(instead)
    try:
        with torch.no_grad(), role.asked({"logits", *([STATES] if states else [])}):
            signals = role.call(role.net, batch)
    except RuntimeError:
        if not given:
            raise
        given = []  # layers follow that are of another type
    finally:
        handle.remove()
    finish = _fitted(given[0], signals["logits"]) if len(given) == 1 else None
    who = f"{type(role.net).__name__} ({role.name})"
    if finish is None:
        raise ValueError(
            f"The term '{term.name}' makes the logits of {who} with its layer '{place}' alone, but they are more than a"
            f" scale or a soft cap of what that gives. Take a method on logits ({role.name}.logits), such as forward_kl"
            f" instead of chunked_kl; or say with {role.key}.taps.head=<module> which layer gives them."
        )
    if states and not (read[0].shape == signals[STATES].shape and torch.equal(read[0], signals[STATES])):
        raise ValueError(
            f"The term '{term.name}' takes {role.name}.{STATES} for what the layer '{place}' of {who} reads, but that"
            " is something else: other layers or a factor stand between. Take a method on logits, such as forward_kl"
            f" instead of chunked_kl, or {role.name}.embedding for the states."
        )
    return head if finish == Finish() else FinishedHead(head, finish)


def _known(like: Tensor) -> Tensor:
    """Numbers in the shape of what a head gives; in double precision, whatever that is."""
    sizes = torch.tensor(_SIZES, dtype=torch.float64, device=like.device)
    values = 2.0 ** sizes.abs() * torch.where(sizes < 0, -1.0, 1.0)
    values = torch.cat([values, -values, 1 / values])
    return values[torch.arange(like.numel(), device=like.device) % len(values)].view(like.shape)


def _fitted(given: Tensor, logits: Tensor) -> Finish | None:
    """What made logits of what the head gave; None where it is another function.

    A scale shows at the smallest numbers, which no soft cap reaches, and the cap at the largest.
    """
    both = min(given.shape[-1], logits.shape[-1])
    if given.shape[:-1] != logits.shape[:-1] or not _nothing(logits[..., both:]):
        return None
    width = None if both == given.shape[-1] else both
    given, logits = given[..., :both], logits[..., :both].to(given.dtype)
    for finish in (Finish(width=width), *_candidates(given, logits, width)):
        if torch.allclose(finish(given), logits, rtol=1e-5, atol=0):
            return finish
    return None


def _candidates(given: Tensor, logits: Tensor, width: int | None) -> list[Finish]:
    smallest, largest = given.abs().argmin(), given.abs().argmax()
    scale, cap = float((logits / given).flatten()[smallest]), float(logits.flatten()[largest].abs())
    if abs(scale - 1) < 1e-6:
        scale = 1.0
    return [Finish(scale, None, width), Finish(scale, cap, width)] if scale and cap else []


def _nothing(filled: Tensor) -> bool:
    """Whether these logits, which no head gave, are those of entries that do not exist."""
    return bool((filled == -torch.inf).all())
