"""Feature losses FitNet, AT, VID, NST, FSP, AB, FT, OFD and ReviewKD: shapes, errors, configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from kd_lightning.core.terms import Stage, Term
from kd_lightning.losses.ab import ABLoss, ab_loss
from kd_lightning.losses.at import ATLoss, at_loss
from kd_lightning.losses.fitnet import FitNetLoss, fitnet_loss
from kd_lightning.losses.fsp import FSPLoss, fsp_loss
from kd_lightning.losses.ft import FTLoss, ft_loss
from kd_lightning.losses.nst import NSTLoss, nst_loss
from kd_lightning.losses.ofd import OFDLoss, ofd_loss
from kd_lightning.losses.ops.common import match_spatial
from kd_lightning.losses.ops.layers import ConvRegressor
from kd_lightning.losses.reviewkd import ReviewKDLoss, reviewkd_loss
from kd_lightning.losses.vid import VIDLoss

CONF = Path(__file__).parents[2] / "conf"
SEVERAL = [FitNetLoss, ATLoss, VIDLoss, NSTLoss, FSPLoss, ABLoss, OFDLoss, ReviewKDLoss]
OWNING = [FitNetLoss, VIDLoss, FSPLoss, ABLoss, FTLoss, OFDLoss, ReviewKDLoss]
NAMES = ["fitnet", "at", "vid", "nst", "fsp", "ab", "ft", "ofd", "reviewkd"]

side = st.integers(1, 9)
stage = st.tuples(st.integers(1, 4), side, side)
quick = settings(max_examples=25, deadline=None)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(loss: nn.Module, *arguments: object) -> nn.Module:
    torch.manual_seed(0)
    if hasattr(loss, "build"):
        loss.build(*arguments)
    return loss


# -- shapes ------------------------------------------------------------------------------------------------------


@quick
@given(pairs=st.lists(st.tuples(stage, stage), min_size=2, max_size=3), kind=st.sampled_from(SEVERAL))
def test_any_channels_and_sizes(pairs, kind):
    student = [rand(3, *s, seed=i).requires_grad_() for i, (s, _) in enumerate(pairs)]
    teacher = [rand(3, *t, seed=9 + i) for i, (_, t) in enumerate(pairs)]
    loss = build(kind(), student, teacher)(student, teacher)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    for x, gradient in zip(student, torch.autograd.grad(loss, student), strict=True):
        assert gradient.shape == x.shape
        assert torch.isfinite(gradient).all()


@quick
@given(pair=st.tuples(stage, stage))
def test_factor_transfer_of_any_channels_and_sizes(pair):
    student, teacher = rand(2, *pair[0]).requires_grad_(), rand(2, *pair[1], seed=1)
    loss = build(FTLoss(), student, teacher)(student, teacher)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


@quick
@given(channels=st.tuples(st.integers(1, 4), st.integers(1, 4)), sizes=st.tuples(side, side, side, side))
def test_attention_and_selectivity_compare_at_the_smaller_size(channels, sizes):
    student, teacher = rand(2, channels[0], *sizes[:2]), rand(2, channels[1], *sizes[2:], seed=1)
    pooled = match_spatial(student, teacher)
    assert pooled[0].shape[2:] == pooled[1].shape[2:] == (min(sizes[0], sizes[2]), min(sizes[1], sizes[3]))
    for function in (at_loss, nst_loss):
        torch.testing.assert_close(function(student, teacher), function(*pooled))


@quick
@given(channels=st.integers(1, 4), sizes=st.tuples(side, side, side, side), scale=st.floats(0.1, 10))
def test_attention_does_not_see_the_scale_of_a_sample(channels, sizes, scale):
    student, teacher = rand(2, channels, *sizes[:2]).double(), rand(2, 3, *sizes[2:], seed=1).double()
    torch.testing.assert_close(at_loss(student * scale, teacher), at_loss(student, teacher), rtol=1e-6, atol=1e-9)


@quick
@given(teacher=st.tuples(side, side), more=st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_regressor_shrinks_to_any_smaller_size(teacher, more):
    s, t = rand(2, 3, teacher[0] + more[0], teacher[1] + more[1]), rand(2, 5, *teacher)
    assert ConvRegressor(s, t)(s).shape == t.shape


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 8), (4, 4)), ((8, 7), (4, 4)), ((4, 3), (8, 6)), ((2, 2), (4, 4))]
)
def test_regressor_reaches_half_and_double_sizes(student, teacher):
    s, t = rand(2, 3, *student), rand(2, 5, *teacher)
    assert ConvRegressor(s, t)(s).shape == t.shape


@pytest.mark.parametrize(("student", "teacher"), [((3, 3), (8, 8)), ((8, 2), (4, 4)), ((56, 56), (14, 14))])
def test_regressor_leaves_other_sizes_to_pooling(student, teacher):
    s, t = rand(2, 3, *student), rand(2, 5, *teacher)
    regressor = ConvRegressor(s, t)
    assert regressor(s).shape == (2, 5, *student)
    assert regressor.conv.kernel_size == (1, 1)


def test_vectors_are_maps_of_one_pixel():
    student, teacher = rand(4, 6), rand(4, 6, seed=1)
    torch.testing.assert_close(fitnet_loss(student, teacher), F.mse_loss(student, teacher))
    loss = build(FitNetLoss(), student, rand(4, 8))
    assert loss(student, rand(4, 8)).shape == ()


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_tokens_are_the_map_of_their_patches(extra):
    patches, teacher = rand(2, 3, 4, 4), rand(2, 5, 4, 4, seed=1)
    tokens = torch.cat([rand(2, extra, 3, seed=2), patches.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(at_loss(tokens, teacher), at_loss(patches, teacher))


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEVERAL)
def test_one_stage_deeper_is_refused(kind):
    student, teacher = [rand(2, 3, 8, 8), rand(2, 3, 4, 4), rand(2, 3, 2, 2)], [rand(2, 3, 8, 8), rand(2, 3, 4, 4)]
    with pytest.raises(ValueError, match=r"student gives 3 feature maps and the teacher 2.*student\.stages"):
        build(kind(), student, teacher)(student, teacher)
    loss = build(kind(), student[:2], teacher)
    with pytest.raises(ValueError, match=r"gives 3 feature maps and the teacher 2|built for 2 stages and got 3"):
        loss(student, teacher)


@pytest.mark.parametrize("kind", OWNING)
def test_forward_before_build_is_refused(kind):
    maps = rand(2, 3, 4, 4) if kind is FTLoss else [rand(2, 3, 8, 8), rand(2, 3, 4, 4)]
    with pytest.raises(ValueError, match=r"not built yet.*build"):
        kind()(maps, maps)


@pytest.mark.parametrize("function", [fitnet_loss, at_loss, nst_loss, ab_loss, ofd_loss, reviewkd_loss])
def test_foreign_shapes_are_refused(function):
    maps = rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"student\[0\] has shape \(2, 12, 3\)"):
        function(rand(2, 12, 3), maps)
    with pytest.raises(ValueError, match="student's batch has 4 samples, the teacher's 2"):
        function(rand(4, 3, 4, 4), maps)
    with pytest.raises(ValueError, match="teacher has no feature maps"):
        function(maps, [])


@pytest.mark.parametrize("function", [fitnet_loss, ab_loss, ofd_loss, ft_loss, reviewkd_loss])
def test_unequal_channels_do_not_broadcast(function):
    with pytest.raises(ValueError, match="must be equal"):
        function(rand(2, 1, 4, 4), rand(2, 3, 4, 4))


def test_fsp_needs_two_maps():
    with pytest.raises(ValueError, match="two or more"):
        fsp_loss(rand(2, 3, 4, 4), rand(2, 3, 4, 4))


def test_numbers_out_of_range_are_refused():
    maps = rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"p is 1\.5"):
        at_loss(maps, maps, p=1.5)
    with pytest.raises(ValueError, match="init_variance"):
        VIDLoss(init_variance=0.0)
    with pytest.raises(ValueError, match="rate is 0"):
        FTLoss(rate=0)
    with pytest.raises(ValueError, match="reduction is 'mean'"):
        ofd_loss(maps, maps, reduction="mean")


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_term_fits_its_loss(name):
    config = OmegaConf.load(CONF / "term" / f"{name}.yaml")
    term = Term(name, instantiate(config.loss), OmegaConf.to_container(config.inputs), config.weight)
    assert {r.scope for r in term.references()} == {"student", "teacher"}


@pytest.mark.parametrize("name", NAMES)
def test_method_names_what_it_uses(name):
    method = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    text = (CONF / "term" / f"{name}.yaml").read_text()
    assert method.info.kind == "feature"
    for signal in ("stages", "preacts", "embedding"):
        assert (signal in method.info.needs) == (f".{signal}" in text), signal
    loss = build(instantiate(OmegaConf.load(CONF / "term" / f"{name}.yaml").loss), *example(name))
    assert ("parameters" in method.info.needs) == bool(list(loss.parameters()))
    assert ("stages_training" in method.info.needs) == ("stages" in method)


def example(name: str) -> tuple[object, object]:
    student, teacher = [rand(2, 3, 8, 8), rand(2, 4, 4, 4)], [rand(2, 5, 8, 8), rand(2, 6, 4, 4)]
    return (student[-1], teacher[-1]) if name == "ft" else (student, teacher)


@pytest.mark.parametrize("name", ["fitnet_two_stage", "fsp", "ab", "ft"])
def test_every_parameter_of_a_staged_loss_learns_in_one_stage(name):
    method = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    stages = [Stage(**OmegaConf.to_container(s)) for s in method.stages]
    assert sum(s.fraction for s in stages) == pytest.approx(1, abs=1e-9)
    term = name.removesuffix("_two_stage")
    loss = build(instantiate(OmegaConf.load(CONF / "term" / f"{term}.yaml").loss), *example(term))
    for path, _ in loss.named_parameters():
        learning = [s for s in stages if any(re.match(p, f"terms.{term}.{path}") for p in s.params)]
        assert len(learning) == 1, path
        assert term in learning[0].terms, path
    student = [any(re.match(p, "student.layer1.0.conv1.weight") for p in s.params) for s in stages]
    assert student == ([False, True] if name == "ft" else [True, True])
