"""A student that predicts with its teacher's classifier (SimKD, Chen et al., CVPR 2022)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.maps import as_map
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.anatomy.places import Anatomy


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
        student_map = _known(student_map, ours, "last_map", "student_map")
        teacher_map = _known(teacher_map, theirs, "last_map", "teacher_map")
        head = teacher.get_submodule(_known(teacher_head, theirs, "head", "teacher_head"))
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
        if ours.head:
            parent, _, name = ours.head.rpartition(".")
            setattr(student.get_submodule(parent), name, nn.Identity())
        self.projector = Projector(source.shape[1], target.shape[1], factor)
        self.head = copy.deepcopy(head).requires_grad_(False)
        # Where the student's map is larger it is pooled to the teacher's size before the projector.
        self._shrink = [min(1.0, t / s) for s, t in zip(source.shape[2:], target.shape[2:], strict=True)]
        self._kept: list[Tensor] = []
        path, _, side = student_map.partition(":")
        self._keeps_input = side == "in"
        student.get_submodule(path).register_forward_hook(self._keep)
        self._freeze_unused(images)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        self._kept.append(_first(args if self._keeps_input else output))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the teacher's classes (B, classes)."""
        self.net(x)
        features = as_map(self._kept.pop(), "The student's last map")
        height, width = (max(1, round(n * r)) for n, r in zip(features.shape[2:], self._shrink, strict=True))
        if (height, width) != tuple(features.shape[2:]):
            features = F.adaptive_avg_pool2d(features, (height, width))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(self.projector(features), 1).flatten(1))
        return logits

    def train(self, mode: bool = True) -> ReusedHeadStudent:
        """Train mode; the reused classifier stays in eval."""
        super().train(mode)
        self.head.eval()
        return self

    def anatomy(self) -> Anatomy:
        """The student's own places, with the projector as last map and the reused classifier as head."""
        inside = {
            name: tuple(f"net.{p}" for p in place) if isinstance(place, tuple) else f"net.{place}"
            for name, place in self._inner.aliases().items()
        }
        return Anatomy(**{**inside, "embedding": "head:in", "head": "head", "last_map": "projector"})  # type: ignore[arg-type]

    def _freeze_unused(self, images: Tensor) -> None:
        """No gradient for what comes after the last map: distributed training waits for every trainable parameter."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        with _measuring(self), torch.enable_grad():
            found = torch.autograd.grad(self(images).sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.requires_grad_(gradient is not None)


def _known(given: str | None, parts: Anatomy, entry: str, argument: str) -> str:
    """The place that was given, or the anatomy's, or (for maps) its last stage; else a refusal that says what to do."""
    place: str = given or getattr(parts, entry) or (entry == "last_map" and parts.stages and parts.stages[-1]) or ""
    if not place:
        raise ValueError(f"The net does not say where its {entry} is: give {argument}=<path of the submodule>.")
    return place


def _first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


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
    """What a tap gives for these images, (B, C, H, W)."""
    kept: list[Tensor] = []
    name, _, side = path.partition(":")
    handle = net.get_submodule(name).register_forward_hook(
        lambda module, args, output: kept.append(_first(args if side == "in" else output))
    )
    try:
        net(images.to(next(net.parameters())))
    finally:
        handle.remove()
    if len(kept) != 1:
        raise ValueError(f"'{path}' of {type(net).__name__} ran {len(kept)} times for one image; it must run once.")
    return as_map(kept[0], f"'{path}' of {type(net).__name__}")
