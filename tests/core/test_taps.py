import pytest
import torch
from torch import nn

from kd_lightning.core.taps import Taps
from tests.core.nets import Net, batch


def test_output_and_input_are_captured():
    net = Net()
    taps = Taps(net, ["conv", "fc:in"])
    net(batch()["image"])
    captured = taps.take()
    assert captured["conv"].shape == (8, 4, 6, 6)
    assert captured["fc:in"].shape == (8, 4)


def test_in_place_activations_do_not_overwrite_a_tap():
    net = Net().eval()
    taps = Taps(net, ["bn"])
    net(batch()["image"])
    assert (taps.take()["bn"] < 0).any()


def test_functional_in_place_operation_after_a_tap_is_an_error():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return torch.relu_(self.a(x))

    net = Overwrites()
    taps = Taps(net, ["a"], "student")
    net(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"student\.a was overwritten in place"):
        taps.take()


def test_unknown_path_lists_near_names():
    with pytest.raises(ValueError, match=r"no submodule 'cnv'.*conv"):
        Taps(Net(), ["cnv"], "student")


def test_tap_that_never_fires_is_named():
    net = Net()
    taps = Taps(net, ["unused"], "student")
    net(batch()["image"])
    with pytest.raises(ValueError, match=r"never fired: unused"):
        taps.take()


def test_tap_that_fires_twice_is_named():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, shared)
    taps = Taps(net, ["0"], "student")
    net(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"more than once.*: 0"):
        taps.take()


def test_paused_taps_capture_nothing():
    net = Net()
    taps = Taps(net, ["conv"])
    with taps.paused():
        net(batch()["image"])
    net(batch(2)["image"])
    assert taps.take()["conv"].shape[0] == 2


def test_taps_survive_compiling_in_place():
    net = Net().eval()
    taps = Taps(net, ["conv", "fc:in"])
    image = batch()["image"]
    plain_logits, plain = net(image), taps.take()
    net.compile(backend="eager")
    compiled_logits, compiled = net(image), taps.take()
    torch.testing.assert_close(compiled_logits, plain_logits)
    torch.testing.assert_close(compiled, plain)
