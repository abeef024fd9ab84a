"""How one image is stored: as JPEG, PNG or plain bytes."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

FORMATS = ("jpeg", "png", "raw")


@dataclass(frozen=True)
class Encoding:
    """Bytes of an image and back.

    Args:
        format: ``jpeg`` (small, lossy), ``png`` (lossless) or ``raw`` (lossless, large, no decoding).
        quality: Of JPEG, 1 to 100; of no effect on the others.

    Raises:
        ValueError: Another format, or a quality out of range.
    """

    format: str = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            close = get_close_matches(self.format, FORMATS, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Choose {', '.join(FORMATS)}."
            raise ValueError(f"Unknown image format '{self.format}'. {hint}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"The quality of JPEG is 1 to 100, got {self.quality}.")

    def __str__(self) -> str:
        return f"jpeg (quality {self.quality})" if self.format == "jpeg" else self.format

    def encode(self, pixels: Tensor) -> bytes:
        """Bytes of ``pixels`` (C, H, W) uint8."""
        from torchvision.io import encode_jpeg, encode_png

        pixels = pixels.contiguous()
        if self.format == "jpeg":
            pixels = encode_jpeg(pixels, self.quality)
        elif self.format == "png":
            pixels = encode_png(pixels)
        return pixels.numpy().tobytes()

    def decode(self, data: bytes | bytearray | memoryview, shape: tuple[int, ...]) -> Tensor:
        """The image (C, H, W) uint8 of ``shape``.

        Raises:
            ValueError: The bytes are of something else.
        """
        from torchvision.io import ImageReadMode, decode_image

        # A copy: the bytes may lie in a file that is closed before the image is used.
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if self.format == "raw":
            return pixels.view(shape)
        image: Tensor = decode_image(pixels, ImageReadMode.GRAY if shape[0] == 1 else ImageReadMode.RGB)
        if image.shape != shape:
            raise ValueError(f"expected an image of {shape}, found {tuple(image.shape)}")
        return image
