"""A role that follows another: the moving average of its weights, saved and not optimised."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kd_lightning.core.calls import Call
from kd_lightning.core.roles import Role, Roles


class Follower(Role):
    r"""A copy of a role that learns, whose parameters move slowly after it.

    .. math:: \theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta

    after every step of the optimiser, where :math:`\theta` are the parameters that learn. Buffers, such as the
    statistics of batch norms, are those of the other. It is in evaluation mode and without gradient, like a frozen
    role, but it is in the checkpoint: a training that goes on has the average that it had.

    References:
        [0] Tarvainen, Valpola. Mean teachers are better role models. NeurIPS 2017.

    Differs from [0]: the decay is constant, without a smaller one at the start.

    Args:
        name: What references call it.
        leader: The role that it follows, with its initial weights.
        call: How a batch becomes signals: one of its own, made as that of the leader.
        decay: :math:`\alpha`.
        key: Where it is set, for messages.
    """

    def __init__(self, name: str, leader: Role, call: Call, decay: float, key: str | None = None) -> None:
        super().__init__(name, copy.deepcopy(leader.net), call, leader.aliases, trainable=False, key=key)
        self.follows, self.decay = leader.name, decay

    @torch.no_grad()
    def follow(self, net: nn.Module) -> None:
        """One update.

        Args:
            net: That of the leader, after a step.
        """
        own, theirs = list(self.net.parameters()), list(net.parameters())
        torch._foreach_lerp_(_data(own), _data(theirs), 1 - self.decay)
        for mine, other in zip(self.net.buffers(), net.buffers(), strict=True):
            mine.copy_(other)


def _data(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach() for parameter in parameters]


def follow_all(roles: Roles) -> None:
    """Update every role that follows another."""
    for role in roles.following.values():
        assert isinstance(role, Follower)
        role.follow(roles.by_name[str(role.follows)].net)
