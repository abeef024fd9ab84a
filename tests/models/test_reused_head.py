"""The student that predicts with its teacher's classifier."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from kd_lightning.core.calls import TensorCall
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.mlp import mlp
from kd_lightning.models.resnet import resnet8, resnet8x4
from kd_lightning.models.reused_head import Projector, ReusedHeadStudent
from kd_lightning.models.shufflenet import shufflev2
from kd_lightning.models.wrn import wrn_16_1

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def wrapped(
    student: nn.Module | None = None, teacher: nn.Module | None = None, **settings: object
) -> ReusedHeadStudent:
    torch.manual_seed(0)
    return ReusedHeadStudent(student or resnet8(10), teacher or resnet8x4(10), IMAGES, **settings)


@pytest.mark.parametrize("make", [resnet8, shufflev2, wrn_16_1])
def test_logits_are_the_teachers_classifier_on_the_pooled_projection(make: type[nn.Module]):
    teacher = resnet8x4(10)
    net = wrapped(make(10), teacher).eval()
    seen: list[Tensor] = []
    net.projector.register_forward_hook(lambda module, args, output: seen.append(output))
    logits = net(IMAGES)
    torch.testing.assert_close(logits, teacher.fc(seen[0].mean((2, 3))))
    assert logits.shape == (2, 10)


def test_every_trainable_parameter_gets_a_gradient_and_the_classifier_stays():
    net = wrapped(shufflev2(10), student_map="layer3").train()
    net(IMAGES).sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(p.requires_grad for p in net.head.parameters())
    assert not any(p.requires_grad for p in net.net.conv2.parameters())
    assert not net.head.training


def test_the_teacher_is_left_alone():
    teacher = resnet8x4(10).train()
    before = copy.deepcopy(teacher.state_dict())
    wrapped(teacher=teacher)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_larger_student_map_is_pooled_to_the_teachers_before_the_projector():
    net = wrapped(student_map="layer2").eval()
    sizes: list[tuple[int, ...]] = []
    net.projector.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape)))
    net(IMAGES)
    net(torch.zeros(1, 3, 64, 48))
    assert sizes == [(2, 256, 8, 8), (1, 256, 16, 12)]


def test_a_term_taps_the_projector_and_the_students_own_places():
    net = wrapped()
    role = Role("student", net, TensorCall(), anatomy(net).aliases())
    references = [Reference.parse(f"student.{name}") for name in ("projector", "stages[-1]", "last_map", "embedding")]
    role.listen(references)
    signals = role({"image": IMAGES})
    shapes = [tuple(role.pick(reference, signals).shape) for reference in references]
    assert shapes == [(2, 256, 8, 8), (2, 64, 8, 8), (2, 256, 8, 8), (2, 256)]


def test_a_copy_and_an_export_are_right_by_construction():
    net = wrapped().eval()
    expected = net(IMAGES)
    torch.testing.assert_close(copy.deepcopy(net)(IMAGES), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(IMAGES), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(program.module()(IMAGES[:1]), expected[:1], rtol=1e-4, atol=1e-4)


def test_weights_load_into_one_that_was_built_without_an_example():
    first, second = wrapped().eval(), ReusedHeadStudent(resnet8(10), resnet8x4(10)).eval()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(IMAGES), first(IMAGES))


def test_a_vision_transformer_can_be_the_student():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10, depth=2)
    net = wrapped(vit, teacher=resnet8x4(10)).eval()
    assert net(IMAGES).shape == (2, 10)
    assert net.projector[0].in_channels == 192


def test_the_classifier_must_fit_the_map():
    with pytest.raises(ValueError, match=r"does not take its map 'layer2'.*teacher_map"):
        wrapped(teacher_map="layer2")


def test_a_net_without_maps_can_be_the_student():
    net = wrapped(mlp(in_channels=3, image_size=32, num_classes=10)).eval()
    assert net(IMAGES).shape == (2, 10)


def test_a_factor_that_leaves_no_channels_is_refused():
    with pytest.raises(ValueError, match="factor 512"):
        Projector(8, 256, factor=512)
