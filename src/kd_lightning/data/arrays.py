"""What a source gives: all samples of a data set in one pool, and what is known about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kd_lightning.data.targets import CLASSES, Target


@runtime_checkable
class LazyInputs(Protocol):
    """Inputs that do not fit into memory: read by position, in the workers of the loader."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def read(self, positions: Tensor) -> Tensor:
        """Samples at ``positions`` (B,) int64, stacked: (B, C, H, W) uint8."""
        ...


Inputs = Tensor | LazyInputs


def take(inputs: Inputs, positions: Tensor) -> Tensor:
    """Samples of ``inputs`` at ``positions`` (B,) int64, stacked."""
    return inputs.index_select(0, positions) if isinstance(inputs, Tensor) else inputs.read(positions)


@dataclass(frozen=True)
class Arrays:
    """All samples of a data set.

    One pool holds every sample, and an official split is a list of positions in it: the pool is never copied,
    and that splits are disjoint can be read off their positions.

    Args:
        inputs: uint8 images (N, C, H, W), float images of that shape, or float features (N, D).
        targets: (N,), of ``kind``: classes int64, -100 where a sample has none; values float32, nan where it has none.
        fingerprint: Hash of the content, see :func:`fingerprint`.
        class_names: One a class; None where the data has no names (they are then the class numbers).
        test: Positions of the official test split; None where there is none.
        validation: Positions of the official validation split; None where there is none.
        mean: Published mean a channel, images in [0, 1]; None to measure it on the training split.
        std: Published standard deviation, as ``mean``.
        decode_size: Shorter side in pixels to which image files were resized before the centre crop.
        kind: Of the targets.
    """

    inputs: Inputs
    targets: Tensor
    fingerprint: str
    class_names: tuple[str, ...] | None = None
    test: Tensor | None = None
    validation: Tensor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    decode_size: int | None = None
    kind: Target = CLASSES

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} samples but {len(self.targets)} targets; there must be one a sample.")
        if len(self.targets) == 0:
            raise ValueError("The data set holds no samples.")
        self.kind.check(self.targets)

    @property
    def strata(self) -> Tensor:
        """What samples are split evenly by, (N,) int64."""
        return self.kind.strata(self.targets)

    @property
    def free(self) -> Tensor:
        """Positions that no official split holds, ascending: the framework's to split."""
        mask = torch.ones(len(self.targets), dtype=torch.bool)
        for held in (self.test, self.validation):
            if held is not None:
                mask[held] = False
        return mask.nonzero().squeeze(1)


@runtime_checkable
class Source(Protocol):
    """Reads a data set. Making one is cheap and touches no file; ``load`` does the work."""

    def load(self) -> Arrays: ...


def plain_tensors(value: Tensor) -> list[Tensor]:
    """What a tensor is made of: itself, or the parts of a quantised one (values, scales), which has no bytes."""
    if type(value).__module__.startswith("torchao"):
        names: list[str] = value.__tensor_flatten__()[0]  # type: ignore[attr-defined]
        return [part for name in names for part in plain_tensors(getattr(value, name))]
    return [value]


def fingerprint(*parts: Tensor | str | bytes) -> str:
    """sha256 (hex) over tensors (shape, dtype and content) and texts, each told apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            for plain in plain_tensors(part):
                digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
                digest.update(plain.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            data = part.encode() if isinstance(part, str) else part
            digest.update(f"bytes({len(data)})".encode())
            digest.update(data)
    return digest.hexdigest()
