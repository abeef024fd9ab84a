"""A student that predicts with its teacher's classifier (SimKD, Chen et al., CVPR 2022)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.anatomy import Anatomy, anatomy


class Projector(nn.Sequential):
    """1x1, 3x3 and 1x1 convolutions, each with batch norm and ReLU, over ``out_channels // factor`` channels.

    As in DefangChen/SimKD, models/util.py. Maps (B, C_in, H, W) to (B, C_out, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int = 2) -> None:
        middle = out_channels // factor
        if middle < 1:
            raise ValueError(f"factor {factor} leaves no channels of {out_channels}.")
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((in_channels, middle, 1), (middle, middle, 3), (middle, out_channels, 1)):
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class ReusedHeadStudent(nn.Module):
    """Student backbone, projector, global average pooling, and a frozen copy of the teacher's classifier.

    The logits come out of ``forward``, so what is deployed is what was trained. ``projector`` is the place to compare
    with the teacher's last map (``student.projector`` in a term). The student's own classifier is removed; parameters
    after its last map, which no output depends on any more, are frozen.

    Args:
        student: The student net; it becomes ``net`` of this module and loses its classifier.
        teacher: The teacher net; read only.
        example: One batch of images (B, C, H, W) to measure shapes with. None for one image of the size in a timm
            configuration, or of 32 x 32: only channels and the ratio of the two maps' sizes are read from it.
        factor: The projector's bottleneck has the teacher's channels divided by this.
        student_map: Path of the student's last map; None for its anatomy's.
        teacher_map: Path of the teacher's last map, which its classifier sees pooled; None for its anatomy's.
        teacher_head: Path of the teacher's classifier; None for its anatomy's.

    Raises:
        ValueError: A path is neither given nor known, or the teacher's classifier does not fit its map.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        example: Tensor | None = None,
        *,
        factor: int = 2,
        student_map: str | None = None,
        teacher_map: str | None = None,
        teacher_head: str | None = None,
    ) -> None:
        super().__init__()
        ours, theirs = anatomy(student), anatomy(teacher)
        self._inner = ours
        student_map = student_map or _known(ours.last_map, "student_map", student)
        teacher_map = teacher_map or _known(theirs.last_map, "teacher_map", teacher)
        head = teacher.get_submodule(teacher_head or _known(theirs.head, "teacher_head", teacher))
        with _measuring(student, teacher):
            images = _example_like(student) if example is None else example[:2]
            source = _last_map(student, student_map, images)
            target = _last_map(teacher, teacher_map, images)
            try:
                head(target.mean((2, 3)))
            except RuntimeError as error:
                raise ValueError(
                    f"The teacher's classifier does not take its map '{teacher_map}' of shape {tuple(target.shape)}, "
                    f"pooled ({error}). Name the map that it sees with teacher_map, the classifier with teacher_head."
                ) from None
        self.net = student
        if ours.head is not None:
            parent, _, name = ours.head.rpartition(".")
            setattr(student.get_submodule(parent), name, nn.Identity())
        self.projector = Projector(source.shape[1], target.shape[1], factor)
        self.head = copy.deepcopy(head).requires_grad_(False)
        # Where the student's map is larger it is pooled to the teacher's size before the projector.
        self._shrink = [min(1.0, t / s) for s, t in zip(source.shape[2:], target.shape[2:], strict=True)]
        self._kept: list[Tensor] = []
        student.get_submodule(student_map).register_forward_hook(self._keep)
        self._freeze_unused(images)

    def _keep(self, module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self._kept.append(output[0] if isinstance(output, tuple) else output)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the teacher's classes (B, classes)."""
        self.net(x)
        features = _as_map(self._kept.pop())
        size = [max(1, round(n * r)) for n, r in zip(features.shape[2:], self._shrink, strict=True)]
        if size != list(features.shape[2:]):
            features = F.adaptive_avg_pool2d(features, size)
        return self.head(F.adaptive_avg_pool2d(self.projector(features), 1).flatten(1))

    def train(self, mode: bool = True) -> ReusedHeadStudent:
        """Train mode; the reused classifier stays in eval."""
        super().train(mode)
        self.head.eval()
        return self

    def anatomy(self) -> Anatomy:
        """The student's own places, with the projector as last map and the reused classifier as head."""
        return self._inner.inside("net", embedding="head:in", head="head", last_map="projector")

    def _freeze_unused(self, images: Tensor) -> None:
        """No gradient for what comes after the last map: distributed training waits for every trainable parameter."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        with _measuring(self), torch.enable_grad():
            found = torch.autograd.grad(self(images).sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.requires_grad_(gradient is not None)


def _known(place: str | None, argument: str, net: nn.Module) -> str:
    """The place, or a refusal that says how to name it."""
    if place is None:
        raise ValueError(f"{type(net).__name__} does not say where this is: give {argument}=<path of the submodule>.")
    return place


@contextmanager
def _measuring(*nets: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; the modes come back."""
    modes = [(m, m.training) for net in nets for m in net.modules()]
    for net in nets:
        net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _example_like(net: nn.Module) -> Tensor:
    """One image of zeros of the size that the net was made for, as far as it says."""
    size = (getattr(net, "pretrained_cfg", None) or {}).get("input_size")
    if size is None:
        size = (next(m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d)), 32, 32)
    return next(net.parameters()).new_zeros(1, *size)


def _last_map(net: nn.Module, path: str, images: Tensor) -> Tensor:
    """The output (B, C, H, W) of a submodule for these images."""
    kept: list[Tensor] = []
    handle = net.get_submodule(path).register_forward_hook(
        lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        net(images.to(next(net.parameters())))
    finally:
        handle.remove()
    if len(kept) != 1:
        raise ValueError(f"'{path}' of {type(net).__name__} ran {len(kept)} times for one image; it must run once.")
    return _as_map(kept[0])


def _as_map(features: Tensor) -> Tensor:
    """A map (B, C, H, W); the last H * W tokens (B, N, C) of a vision transformer are laid out as their square grid."""
    if features.dim() == 4:
        return features
    if features.dim() != 3:
        raise ValueError(f"The last map must be (B, C, H, W) or tokens (B, N, C), not {tuple(features.shape)}.")
    side = isqrt(features.shape[1])
    return features[:, features.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))
