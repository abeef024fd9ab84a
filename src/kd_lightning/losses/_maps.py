"""Feature maps of any network as (B, C, H, W): maps, tokens and vectors."""

from __future__ import annotations

from math import isqrt

from torch import Tensor, nn

from kd_lightning.losses._layers import Maps, pair_maps, to_like

MOST_EXTRA_TOKENS = 8
"""Class, distillation and register tokens that a vision transformer puts before its patches."""


def as_map(features: Tensor) -> Tensor:
    """Feature map (B, C, H, W); the patch tokens (B, N, D) of a vision transformer are laid out as their square grid.

    Tokens before the grid (class, distillation, registers) are dropped: N minus the largest square below it. A vector
    (B, D) becomes a map of one pixel.

    Raises:
        ValueError: None of the three, or tokens of no square grid.
    """
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        return features[:, :, None, None]
    if features.dim() != 3:
        raise ValueError(
            f"A feature map (B, C, H, W) or tokens (B, N, D) are needed, but the shape is {tuple(features.shape)}; "
            "tap a layer before the pooling, for example student.stages[-1]."
        )
    batch, tokens, width = features.shape
    side = isqrt(tokens)
    extra = tokens - side**2
    if side == 0 or extra > MOST_EXTRA_TOKENS:
        raise ValueError(
            f"{tokens} tokens are no square grid with up to {MOST_EXTRA_TOKENS} tokens before it; use square images, "
            "or tap a layer that gives maps (B, C, H, W)."
        )
    return features[:, extra:].transpose(1, 2).reshape(batch, width, side, side)


def as_map_pairs(student: Maps, teacher: Maps) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's maps stage by stage, the teacher's without gradient; see :func:`as_map`.

    Raises:
        ValueError: Different numbers of maps or of samples.
    """

    def maps(features: Maps) -> list[Tensor]:
        return [as_map(f) for f in ([features] if isinstance(features, Tensor) else features)]

    return pair_maps(maps(student), maps(teacher))


def check_channels(student: Tensor, teacher: Tensor, owner: str) -> None:
    """Refuse maps of different width, which would broadcast or fail obscurely.

    Raises:
        ValueError: The numbers of channels differ.
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"The student's map has {student.shape[1]} channels and the teacher's {teacher.shape[1]}; "
            f"project the student's first, as {owner} does."
        )


def conv1x1(student: Tensor, teacher: Tensor, bias: bool = False) -> nn.Module:
    """1x1 convolution from the student's to the teacher's channels; the identity where they agree."""
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    return to_like(nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=bias), student)
