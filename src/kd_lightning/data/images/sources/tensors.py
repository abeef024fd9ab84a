"""Arrays from an npz or safetensors file."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, fingerprint


class Tensors:
    """Features or images that were saved as arrays.

    The file holds ``x`` and ``y``, or ``train_x`` and ``train_y`` with optional ``val_x``, ``val_y``, ``test_x``,
    ``test_y`` for official splits. Inputs are uint8 images or floats; images as (N, C, H, W), (N, H, W) or
    (N, H, W, C); features as (N, D). Targets are integers (N,), -100 where a sample has none.

    Args:
        root: Folder that a relative ``path`` starts from.
        path: The file, ``.npz`` or ``.safetensors``.
        x: Name of the inputs.
        y: Name of the targets.
        layout: ``NCHW`` or ``NHWC``; None to see it from the shape: the one of 1 to 4 that stands second or last.
    """

    def __init__(self, path: str, root: str = ".", x: str = "x", y: str = "y", layout: str | None = None) -> None:
        if layout not in (None, "NCHW", "NHWC"):
            raise ValueError(f"data.source.layout must be NCHW, NHWC or null, got {layout}.")
        self.path, self.x, self.y, self.layout = Path(root) / path, x, y, layout

    def load(self) -> Arrays:
        """Read the file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It cannot be read, names or shapes do not fit, or values are not finite.
        """
        arrays = self._read()
        split = f"train_{self.x}" in arrays or f"train_{self.y}" in arrays
        parts = ["train_" if split else ""]
        parts += [part for part in ("val_", "test_") if f"{part}{self.x}" in arrays or f"{part}{self.y}" in arrays]
        inputs = [self._inputs(arrays, f"{part}{self.x}") for part in parts]
        targets = [self._targets(arrays, f"{part}{self.y}") for part in parts]
        for part, images, classes in zip(parts, inputs, targets, strict=True):
            name = f"{part}{self.x}"
            if len(images) != len(classes):
                raise ValueError(f"{self.path}: '{name}' has {len(images)} samples, its targets are {len(classes)}.")
            if images.shape[1:] != inputs[0].shape[1:] or images.dtype != inputs[0].dtype:
                raise ValueError(
                    f"{self.path}: '{name}' holds {images.dtype} {tuple(images.shape[1:])} a sample, "
                    f"'{parts[0]}{self.x}' holds {inputs[0].dtype} {tuple(inputs[0].shape[1:])}."
                )
        sizes = [len(classes) for classes in targets]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        held = {p: torch.arange(end - size, end) for p, end, size in zip(parts, ends, sizes, strict=True)}
        x, y = torch.cat(inputs), torch.cat(targets)
        return Arrays(x, y, fingerprint(x, y), test=held.get("test_"), validation=held.get("val_"))

    def _read(self) -> dict[str, Tensor]:
        if not self.path.is_file():
            raise FileNotFoundError(f"No file {self.path}; set data.source.path to an .npz or .safetensors file.")
        try:
            if self.path.suffix == ".npz":
                import numpy as np

                with np.load(self.path, allow_pickle=False) as file:
                    return {name: torch.from_numpy(file[name]) for name in file.files}
            if self.path.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(self.path)
        except Exception as error:  # zip, zlib, numpy, safetensors and torch each have errors of their own here
            raise ValueError(f"{self.path} is truncated, or not a plain {self.path.suffix} file: {error}") from error
        raise ValueError(f"{self.path}: expected .npz or .safetensors.")

    def _get(self, arrays: dict[str, Tensor], name: str) -> Tensor:
        if name not in arrays:
            near = difflib.get_close_matches(name, arrays, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{self.path} has no array '{name}'; it holds {', '.join(sorted(arrays)) or 'nothing'}.{hint} "
                "Set data.source.x and data.source.y."
            )
        return arrays[name]

    def _inputs(self, arrays: dict[str, Tensor], name: str) -> Tensor:
        x = self._get(arrays, name)
        if x.ndim not in (2, 3, 4) or x.is_complex():
            raise ValueError(
                f"{self.path}: '{name}' is {x.dtype} {tuple(x.shape)}; expected (N, D), (N, H, W) or (N, C, H, W)."
            )
        if x.dtype != torch.uint8:
            x = x.float()
            if bad := int((~x.isfinite()).sum()):
                raise ValueError(f"{self.path}: '{name}' has {bad} values that are not finite; remove or replace them.")
        if x.ndim == 3:
            x = x.unsqueeze(1)
        if x.ndim == 4 and self._channels_last(name, tuple(x.shape)):
            x = x.permute(0, 3, 1, 2)
        return x.contiguous()

    def _channels_last(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether images of this shape (N, ., ., .) have their channels last."""
        if self.layout is not None:
            return self.layout == "NHWC"
        second, third, last = shape[1:]
        if second in (1, 3) or last > 4:
            return False
        if second > 4 and third == last:
            return False  # maps of 1 x 1 to 4 x 4 pixels
        if last in (1, 3):
            return True
        if second <= 4:
            return False
        if second == third:
            return True
        raise ValueError(
            f"{self.path}: '{name}' is {shape}: {last} channels of {second} x {third} pixels, or {second} of {third} x"
            f" {last}? Set data.source.layout=NHWC or NCHW."
        )

    def _targets(self, arrays: dict[str, Tensor], name: str) -> Tensor:
        y = self._get(arrays, name)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y.squeeze(1)
        if y.ndim != 1 or y.is_floating_point() or y.is_complex():
            raise ValueError(
                f"{self.path}: '{name}' is {y.dtype} {tuple(y.shape)}; expected integer classes (N,). "
                "Take the argmax of one-hot rows."
            )
        return y.long()
