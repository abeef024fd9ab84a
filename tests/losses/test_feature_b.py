"""Feature losses, second part: shapes, the parts they own, and the student that reuses its teacher's head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kd_lightning.losses.catkd import CATKDLoss, catkd_loss
from kd_lightning.losses.cwd import CWDLoss, cwd_loss
from kd_lightning.losses.fcfd import FCFDLoss
from kd_lightning.losses.ickd import ICKDLoss, ickd_loss
from kd_lightning.losses.mgd import MGDLoss
from kd_lightning.losses.ops.bridges import continue_from
from kd_lightning.losses.ops.heads import apply_frozen_head, class_activation_maps, classifier
from kd_lightning.losses.ops.maps import as_map
from kd_lightning.losses.ops.norm import BatchNorm
from kd_lightning.losses.pkd import PKDLoss, pkd_loss
from kd_lightning.losses.semckd import SemCKDLoss
from kd_lightning.losses.simkd import SimKDLoss, simkd_loss
from kd_lightning.losses.srd import SRDLoss, srd_loss
from kd_lightning.losses.vitkd import ViTKDLoss

CONF = Path(__file__).parents[2] / "conf"
NAMES = ["srrl", "simkd", "semckd", "catkd", "mgd", "cwd", "pkd", "ickd", "srd", "vitkd", "fcfd"]

sides = st.integers(1, 7)
map_shapes = st.tuples(st.integers(1, 5), sides, sides)


def rand(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_(grad)


def built(loss: nn.Module, **inputs: Any) -> nn.Module:
    torch.manual_seed(0)
    loss.build(**inputs)
    return loss


# -- shapes ----------------------------------------------------------------------------------------------------------

ANY_SHAPE = {"cwd": CWDLoss, "pkd": PKDLoss, "ickd": ICKDLoss, "mgd": MGDLoss}


@pytest.mark.parametrize("name", ANY_SHAPE)
@settings(max_examples=15, deadline=None)
@given(batch=st.integers(2, 3), student=map_shapes, teacher=map_shapes)
def test_any_two_maps_give_a_finite_loss_and_gradient(name: str, batch: int, student: Any, teacher: Any):
    inputs = {"student": rand(batch, *student, grad=True), "teacher": rand(batch, *teacher, seed=1)}
    loss = built(ANY_SHAPE[name](), **inputs)(**inputs)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert torch.isfinite(inputs["student"].grad).all()


@settings(max_examples=15, deadline=None)
@given(student=st.lists(map_shapes, min_size=1, max_size=3), teacher=st.lists(map_shapes, min_size=1, max_size=3))
def test_semckd_pairs_any_layers(student: Any, teacher: Any):
    inputs = {
        "student": [rand(4, *s, seed=i, grad=True) for i, s in enumerate(student)],
        "teacher": [rand(4, *t, seed=9 + i) for i, t in enumerate(teacher)],
    }
    module = built(SemCKDLoss(batch_size=4), **inputs)
    loss = module(**inputs)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(s.grad).all() for s in inputs["student"])
    attention = module.attention(inputs["student"], inputs["teacher"])
    torch.testing.assert_close(attention.sum(-1), torch.ones(4, len(student), dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(student=st.tuples(sides, sides), teacher=st.tuples(sides, sides), resolution=st.integers(1, 3))
def test_maps_of_any_size_are_compared_after_pooling(student: Any, teacher: Any, resolution: int):
    ours, theirs = rand(2, 3, *student), rand(2, 3, *teacher, seed=1)
    size = tuple(min(a, b) for a, b in zip(student, teacher, strict=True))
    expected = (F.adaptive_avg_pool2d(ours, size) - F.adaptive_avg_pool2d(theirs, size)).square().mean()
    torch.testing.assert_close(simkd_loss(ours, theirs), expected)
    constant = torch.ones(2, 3, *student, dtype=torch.float64)
    assert catkd_loss(constant, 2 * torch.ones(2, 3, *teacher, dtype=torch.float64), resolution=resolution) < 1e-20


@settings(max_examples=20, deadline=None)
@given(side=st.integers(3, 14), extra=st.sampled_from([0, 1, 2, 4, 5]), width=st.integers(1, 5))
def test_tokens_become_the_map_of_their_patches(side: int, extra: int, width: int):
    grid = rand(2, width, side, side)
    tokens = torch.cat([rand(2, extra, width, seed=1), grid.flatten(2).transpose(1, 2)], 1)
    torch.testing.assert_close(as_map(tokens), grid)


def test_tokens_of_no_square_grid_are_refused():
    with pytest.raises(ValueError, match=r"tokens .* of a square grid are needed"):
        as_map(torch.zeros(2, 12 * 16, 8))
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4, 5\)"):
        as_map(torch.zeros(1, 2, 3, 4, 5))


@pytest.mark.parametrize("loss", [simkd_loss, cwd_loss, pkd_loss, ickd_loss, catkd_loss])
def test_different_channels_are_refused_by_the_functions(loss: Any):
    with pytest.raises(ValueError, match="3 channels and the teacher's 4"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))


def test_different_numbers_of_maps_are_refused():
    with pytest.raises(ValueError, match="1 feature maps and the teacher 2"):
        pkd_loss([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 3, 4, 4)] * 2)


# -- values ----------------------------------------------------------------------------------------------------------


def test_cwd_is_the_divergence_of_spatial_distributions():
    student, teacher = rand(2, 3, 4, 5), rand(2, 3, 4, 5, seed=1)
    p, q = ((x / 4).flatten(2).softmax(-1) for x in (teacher, student))
    expected = 16 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(cwd_loss(student, teacher, temperature=4.0), expected)


def test_pkd_is_one_minus_the_correlation_of_each_channel():
    student, teacher = rand(3, 2, 4, 5), rand(3, 2, 4, 5, seed=1)
    rows = [torch.stack([student[:, c].flatten(), teacher[:, c].flatten()]) for c in range(2)]
    correlation = torch.stack([torch.corrcoef(r)[0, 1] for r in rows]).mean()
    n = 3 * 4 * 5
    torch.testing.assert_close(pkd_loss(student, teacher), (1 - correlation) * (n - 1) / n, rtol=1e-5, atol=1e-6)


def test_pkd_survives_dead_channels_and_single_values():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pkd_loss(student, torch.randn(2, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()
    assert pkd_loss(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)) == 0


def test_ickd_compares_correlations_whatever_the_sizes():
    teacher = rand(2, 3, 4, 4)
    finer = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert ickd_loss(finer, teacher) < 1e-20
    orthogonal = torch.eye(2, dtype=torch.float64).view(1, 2, 1, 2)
    aligned = torch.ones(1, 2, 1, 2, dtype=torch.float64)
    # Rows (1, 0), (0, 1) against (1, 1) / sqrt 2: each differs by 2 - sqrt 2.
    assert ickd_loss(orthogonal, aligned).item() == pytest.approx(2 - 2**0.5)


def test_srd_is_the_logarithm_of_summed_fourth_powers():
    assert srd_loss(torch.zeros(2, 3), torch.full((2, 3), 2.0)).item() == pytest.approx(torch.tensor(96.0).log().item())
    student = torch.ones(2, 3, requires_grad=True)
    srd_loss(student, torch.ones(2, 3)).backward()
    assert torch.isfinite(student.grad).all()


def test_srd_does_not_see_the_scale_of_a_channel():
    student, teacher = rand(8, 3), rand(8, 3, seed=1)
    loss = built(SRDLoss(eps=1e-12), student=student, teacher=teacher)
    torch.testing.assert_close(loss(student, teacher), loss(student, 5 * teacher + 2))


def test_batch_norm_uses_running_statistics_for_a_single_value_only():
    norm = BatchNorm(2, affine=False)
    norm.running_mean.fill_(1.0)
    torch.testing.assert_close(norm(torch.full((1, 2, 1, 1), 3.0)), torch.full((1, 2, 1, 1), 2.0), rtol=1e-4, atol=0)
    assert norm.num_batches_tracked == 0
    assert norm(torch.tensor([[1.0, 1.0], [3.0, 3.0]])).mean().abs() < 1e-6
    assert norm.num_batches_tracked == 1


# -- SemCKD ----------------------------------------------------------------------------------------------------------


def semckd(batch: int, size: int) -> tuple[nn.Module, dict[str, Any]]:
    inputs = {
        "student": [rand(batch, 3, 4, 4), rand(batch, 2, 2, 2, seed=1)],
        "teacher": [rand(batch, 3, 4, 4, seed=2), rand(batch, 4, 2, 2, seed=3)],
    }
    return built(SemCKDLoss(batch_size=size), **inputs), inputs


def test_semckd_pads_a_small_batch_with_absent_samples():
    module, inputs = semckd(batch=5, size=8)
    padded = {name: [F.pad(x, (0, 0, 0, 0, 0, 0, 0, 3)) for x in maps] for name, maps in inputs.items()}
    torch.testing.assert_close(module.attention(**inputs), module.attention(**padded)[:5])


def test_semckd_attends_a_large_batch_in_parts():
    module, inputs = semckd(batch=10, size=4)
    parts = [{name: [x[i : i + 4] for x in maps] for name, maps in inputs.items()} for i in (0, 4, 8)]
    torch.testing.assert_close(module.attention(**inputs), torch.cat([module.attention(**p) for p in parts]))


def test_semckd_refuses_a_batch_below_its_factor():
    with pytest.raises(ValueError, match="below factor 4"):
        SemCKDLoss(batch_size=3)


# -- classifiers -----------------------------------------------------------------------------------------------------


def test_pooled_class_activation_maps_are_the_logits_without_bias():
    features, head = rand(2, 5, 3, 4), nn.Linear(5, 7).double()
    pooled = class_activation_maps(features, head, frozen=True).mean((2, 3))
    torch.testing.assert_close(pooled + head.bias, head(features.mean((2, 3))))


def test_catkd_trains_the_students_classifier_and_not_the_teachers():
    ours, theirs = nn.Linear(3, 4).double(), nn.Linear(5, 4).double()
    CATKDLoss()(rand(2, 3, 4, 4, grad=True), rand(2, 5, 4, 4), ours, theirs).backward()
    assert ours.weight.grad.abs().sum() > 0
    assert theirs.weight.grad is None


def test_a_classifier_is_found_inside_a_container_and_called_without_hooks():
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4)).double()
    fired = []
    head[1].register_forward_hook(lambda *args: fired.append(1))
    features = rand(2, 3)
    logits = apply_frozen_head(head, features)
    assert not fired
    torch.testing.assert_close(logits, head[1](features))


@pytest.mark.parametrize("head", [nn.Identity(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4)), nn.Conv2d(3, 4, 3)])
def test_a_head_that_is_not_one_linear_layer_is_refused(head: nn.Module):
    with pytest.raises(ValueError, match="must be one linear layer"):
        classifier(head)


def test_features_that_are_not_the_classifiers_input_are_refused():
    with pytest.raises(ValueError, match="takes 5 values, but the features have 3"):
        class_activation_maps(torch.zeros(2, 3, 4, 4), nn.Linear(5, 7), frozen=False)


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "shape"), [("channel", (2, 5, 1, 1)), ("spatial", (2, 1, 4, 4))])
def test_mgd_masks_what_lies_below_the_ratio(mask: str, shape: tuple[int, ...]):
    student, teacher = rand(2, 5, 4, 4), rand(2, 5, 4, 4, seed=1)
    loss = built(MGDLoss(0.5, mask), student=student, teacher=teacher)
    seen = []
    loss.generation.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    assert loss.noise(student).shape == shape
    loss(student, teacher, noise)
    kept = (noise >= 0.5).expand_as(student)
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(seen[0], torch.where(kept, student, torch.zeros_like(student)))


def test_mgd_draws_from_the_global_generator():
    inputs = {"student": rand(4, 5, 4, 4), "teacher": rand(4, 5, 4, 4, seed=1)}
    loss = built(MGDLoss(0.5), **inputs)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(**inputs).item())
    assert values[0] == values[1] != values[2]


def test_mgd_refuses_wrong_settings():
    with pytest.raises(ValueError, match="ratio"):
        MGDLoss(1.0)
    with pytest.raises(ValueError, match="'row'"):
        MGDLoss(mask="row")


def vit_inputs(tokens: int = 17) -> dict[str, Any]:
    return {
        "student": [rand(2, tokens, 3), rand(2, tokens, 3, seed=1)],
        "teacher": [rand(2, 17, 5, seed=2), rand(2, 17, 5, seed=3)],
        "student_deep": rand(2, tokens, 3, seed=4),
        "teacher_deep": rand(2, 17, 5, seed=5),
    }


def test_vitkd_replaces_the_patches_with_the_largest_noise():
    inputs = vit_inputs()
    loss = built(ViTKDLoss(ratio=0.5), **inputs)
    nn.init.constant_(loss.mask_token, 7.0)
    seen = []
    loss.generation.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    noise = torch.stack([torch.arange(16.0), -torch.arange(16.0)])
    loss(**inputs, noise=noise)
    replaced = (seen[0] == 7.0).all(1).flatten(1)
    assert replaced[0].tolist() == [False] * 8 + [True] * 8
    assert replaced[1].tolist() == [True] * 8 + [False] * 8


def test_vitkd_leaves_out_the_class_token():
    inputs = vit_inputs()
    loss = built(ViTKDLoss(), **inputs)
    noise = torch.rand(2, 16)
    before = loss(**inputs, noise=noise)
    for name in ("student", "teacher"):
        inputs[name] = [torch.cat([x[:, :1] + 9, x[:, 1:]], 1) for x in inputs[name]]
    torch.testing.assert_close(loss(**inputs, noise=noise), before)


def test_vitkd_takes_a_convolutional_teacher():
    inputs = vit_inputs(tokens=65)
    inputs |= {"teacher": [rand(2, 5, 8, 8), rand(2, 6, 4, 4)], "teacher_deep": rand(2, 7, 2, 2)}
    assert torch.isfinite(built(ViTKDLoss(), **inputs)(**inputs))


# -- FCFD ------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Three stages, pooling, classifier."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        stages, inputs = [], 3
        for i, width in enumerate(widths):
            layers = [nn.Conv2d(inputs, width, 3, 1 if i == 0 else 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
            stages.append(nn.Sequential(*layers))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(inputs, 10)

    def run(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps, self.fc(x.mean((2, 3)))


def fcfd_inputs(student: Net, teacher: Net, images: Tensor) -> dict[str, Any]:
    (ours, our_logits), (theirs, their_logits) = student.run(images), teacher.run(images)
    return {
        "student": ours,
        "teacher": [t.detach() for t in theirs],
        "student_logits": our_logits,
        "teacher_logits": their_logits.detach(),
        "student_stages": list(student.stages),
        "teacher_stages": list(teacher.stages),
        "student_head": student.fc,
        "teacher_head": teacher.fc,
    }


@pytest.fixture
def fcfd() -> tuple[FCFDLoss, Net, Net, Tensor]:
    torch.manual_seed(0)
    student, teacher, images = Net(4, 6, 8).eval(), Net(5, 7, 9).eval().requires_grad_(False), torch.randn(4, 3, 8, 8)
    loss = built(FCFDLoss(paths=4), **fcfd_inputs(student, teacher, images))
    student.train()
    return loss, student, teacher, images


def test_fcfd_leaves_statistics_and_taps_alone(fcfd: Any):
    loss, student, teacher, images = fcfd
    fired = []
    for net in (student, teacher):
        net.stages[2][0].register_forward_hook(lambda *args: fired.append(1))
    inputs = fcfd_inputs(student, teacher, images)
    fired.clear()
    before = {k: v.clone() for net in (student, teacher) for k, v in net.state_dict(prefix=f"{id(net)}.").items()}
    loss(**inputs).backward()
    after = {k: v for net in (student, teacher) for k, v in net.state_dict(prefix=f"{id(net)}.").items()}
    assert not fired
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert len(student.stages[2][0]._forward_hooks) == 1
    assert student.stages[2][1].track_running_stats


def test_fcfd_reaches_the_students_later_stages_and_classifier_through_the_teachers_maps(fcfd: Any):
    loss, student, teacher, images = fcfd
    inputs = fcfd_inputs(student, teacher, images)
    inputs["student"] = [s.detach() for s in inputs["student"]]
    loss(**inputs).backward()
    assert student.stages[0][0].weight.grad is None
    assert student.stages[1][0].weight.grad.abs().sum() > 0
    assert student.fc.weight.grad.abs().sum() > 0


def test_fcfd_warms_the_feature_part_up(fcfd: Any):
    loss, student, teacher, images = fcfd
    loss.mixed_weight = 0.0
    loss.eval()
    inputs = fcfd_inputs(student, teacher, images)
    values = [loss(**inputs, epoch=epoch).item() for epoch in (0, 9, 19, 40)]
    assert values[1] == pytest.approx(10 * values[0], rel=1e-4)
    assert values[2] == pytest.approx(20 * values[0], rel=1e-4) == values[3]


def test_fcfd_refuses_a_network_that_is_not_its_stages(fcfd: Any):
    _, student, teacher, images = fcfd
    student.eval()
    inputs = fcfd_inputs(student, teacher, images)
    inputs["student"] = [inputs["student"][0] + 1, *inputs["student"][1:]]
    with pytest.raises(ValueError, match="FCFD runs the student's later stages"):
        FCFDLoss().build(**inputs)


def test_a_network_continued_from_its_own_map_gives_its_own_logits():
    net = Net(4, 6, 8).eval()
    maps, logits = net.run(torch.randn(2, 3, 8, 8))
    later, end = continue_from(maps[0], list(net.stages[1:]), net.fc, frozen=True)
    torch.testing.assert_close(later, maps[1:])
    torch.testing.assert_close(end, logits)


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_term_names_the_arguments_of_its_loss(name: str):
    from hydra.utils import instantiate

    from kd_lightning.core.terms import Term

    node = yaml.safe_load((CONF / "term" / f"{name}.yaml").read_text())
    loss = instantiate(node["loss"])
    Term(name, loss, node["inputs"], node["weight"])  # refuses what forward does not take
    method = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    assert method["name"] == name
    assert [{f"/term@terms.{t}": t} for t in method["terms"]] == method["defaults"][:-1]
    assert isinstance(method["terms"][name]["weight"], float)
    assert set(method["info"]) == {"kind", "paper", "year", "needs", "golden"}


def test_simkd_module_is_the_function():
    student, teacher = rand(2, 3, 4, 4), rand(2, 3, 8, 8, seed=1)
    assert SimKDLoss()(student, teacher) == simkd_loss(student, teacher)
