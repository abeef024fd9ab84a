"""Feature maps of any network as (B, C, H, W): maps, vectors and tokens; and the pairing of stages."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from torch import Tensor

Maps = Tensor | Sequence[Tensor]

# Before the patches of a vision transformer: a class token, a distillation token, four registers.
_EXTRA_TOKENS = (0, 1, 2, 4, 5)


def as_map(features: Tensor, name: str = "The feature") -> Tensor:
    """A map (B, C, H, W) as it is, a vector (B, D) as one pixel, tokens (B, T, D) as their square grid (B, D, H, H).

    Class, distillation and register tokens before the patches of a vision transformer are dropped.

    Args:
        features: One of the three.
        name: What it is called in the error.

    Raises:
        ValueError: None of the three, or tokens of no square grid.
    """
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        return features[:, :, None, None]
    if features.dim() == 3:
        batch, tokens, width = features.shape
        side = isqrt(tokens)
        extra = tokens - side**2
        if side and extra in _EXTRA_TOKENS:
            return features[:, extra:].transpose(1, 2).reshape(batch, width, side, side)
    raise ValueError(
        f"{name} has shape {tuple(features.shape)}, but a map (B, C, H, W), a vector (B, D) or the tokens (B, T, D) of"
        " a square grid are needed (with at most class, distillation and four register tokens before it). Tap another"
        " layer, for example student.stages[-1]."
    )


def as_maps(features: Maps, name: str) -> list[Tensor]:
    """One map or several as a list of maps (B, C, H, W); see :func:`as_map`.

    Raises:
        ValueError: Where there is no map, or one has another shape.
    """
    maps = [features] if isinstance(features, Tensor) else list(features)
    if not maps:
        raise ValueError(f"{name} has no feature maps; name at least one layer in the term's inputs.")
    return [as_map(x, f"{name}[{i}]") for i, x in enumerate(maps)]


def pair_maps(student: Maps, teacher: Maps) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's maps stage by stage, the teacher's without gradient; see :func:`as_map`.

    Raises:
        ValueError: Where they are not equally many or differ in the batch size.
    """
    ours, theirs = as_maps(student, "student"), as_maps(teacher, "teacher")
    if len(ours) != len(theirs):
        raise ValueError(
            f"The student gives {len(ours)} feature maps and the teacher {len(theirs)}, but this loss pairs them one"
            " to one. Name the layers to pair in the term's inputs, for example"
            " student: [student.stages[0], student.stages[-1]]."
        )
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        if len(s) != len(t):
            raise ValueError(f"Stage {i}: the student's batch has {len(s)} samples, the teacher's {len(t)}.")
    return [(s, t.detach()) for s, t in zip(ours, theirs, strict=True)]


def check_same_shape(student: Tensor, teacher: Tensor, stage: int) -> None:
    """Refuse two maps that would silently broadcast against each other.

    Raises:
        ValueError: Where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"Stage {stage}: the student's map has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)};"
            " they must be equal. The module form of the loss builds the projection between them."
        )


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
