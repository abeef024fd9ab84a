"""A role that follows another: a moving average, saved and not optimised."""

import copy

import pytest
import torch

from kd_lightning.core.calls import TensorCall
from kd_lightning.core.follow import Follower, follow_all
from kd_lightning.core.metrics import Evaluation, NegativeLogLikelihood
from kd_lightning.core.roles import Role, Roles
from tests.core.nets import Net, batch


@pytest.fixture
def roles():
    torch.manual_seed(0)
    leader = Role("a", Net(), TensorCall())
    return Roles([leader, Follower("c", leader, TensorCall(), decay=0.75)])


def move(net):
    """As a step of an optimiser and a training batch do."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 1.0
        net.bn.running_mean += 2.0
        net.bn.num_batches_tracked += 3


def test_parameters_are_averaged_and_buffers_copied(roles):
    leader, follower = roles.by_name["a"].net, roles.by_name["c"].net
    before = copy.deepcopy(leader)
    assert all(torch.equal(x, y) for x, y in zip(before.parameters(), follower.parameters(), strict=True))
    move(leader)
    follow_all(roles)
    for first, now in zip(before.parameters(), follower.parameters(), strict=True):
        torch.testing.assert_close(now, first + 0.25)
    assert torch.equal(follower.bn.running_mean, leader.bn.running_mean)
    assert int(follower.bn.num_batches_tracked) == 3
    assert all(torch.equal(x, y + 1.0) for x, y in zip(leader.parameters(), before.parameters(), strict=True))


def test_it_is_saved_but_never_learns_nor_trains(roles):
    role = roles.by_name["c"]
    roles.train()
    assert not role.training
    assert not any(module.training for module in role.net.modules())
    assert roles.by_name["a"].net.training
    assert not any(parameter.requires_grad for parameter in role.parameters())
    assert not role(batch())["logits"].requires_grad
    assert list(roles.trainable) == ["a"]
    assert {name.split(".net.")[0] for name in roles.state_dict()} == {"trainable.a", "following.c"}
    assert roles.leaders == {"c": "a"}


def test_roles_without_one_have_the_keys_of_before():
    roles = Roles([Role("a", Net(), TensorCall()), Role("b", Net(), TensorCall(), trainable=False)])
    assert all(name.startswith("trainable.a.net.") for name in roles.state_dict())
    follow_all(roles)


def test_its_state_is_all_that_it_has(roles):
    """Gone on from a checkpoint, it moves as it would have."""
    leader = roles.by_name["a"].net
    move(leader)
    follow_all(roles)
    state = copy.deepcopy(roles.state_dict())
    other = Role("a", Net(), TensorCall())
    again = Roles([other, Follower("c", other, TensorCall(), decay=0.75)])
    again.load_state_dict(state)
    for one in (roles, again):
        move(one.by_name["a"].net)
        follow_all(one)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in roles.state_dict().items())


def test_memory_formats_need_not_agree(roles):
    roles.by_name["a"].net.to(memory_format=torch.channels_last)
    move(roles.by_name["a"].net)
    follow_all(roles)
    assert torch.isfinite(roles.by_name["c"](batch())["logits"]).all()


def test_it_is_measured_in_the_place_of_the_one_it_follows():
    own = Evaluation({"nll": NegativeLogLikelihood()}, {"preds": "a.logits", "target": "batch.target"})
    its = own.of_follower("c", "a")
    assert {name: str(one) for name, one in its.inputs.items()} == {"preds": "c.logits", "target": "batch.target"}
    assert list(its.collection("val").keys()) == ["val/c/nll"]
    its.update("val", {"preds": torch.zeros(2, 3), "target": torch.zeros(2, dtype=torch.long)})
    assert own.collection("val")["nll"].count == 0
