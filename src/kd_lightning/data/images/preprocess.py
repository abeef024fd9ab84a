"""From an image file to what the network sees: shared by the image folder, export and predict."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Size = tuple[int, int]

# What PIL may try, whatever a file is called. Left out are those that start other programs (EPS: Ghostscript) or have
# no business here.
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

MOST_PIXELS = 178_956_970
"""Of a picture that was resized, as PIL has it for one that is opened: a line of 1 x 30,000 pixels grows far beyond."""


def open_picture(source: str | Path | IO[bytes]) -> ImageFile:
    """A picture file, opened as one of ``KINDS``; nothing of it is unpacked yet.

    Raises:
        OSError and others of PIL: The file is missing, of another kind, broken, or huge when unpacked.
    """
    from PIL import Image as pil

    return pil.open(source, formats=KINDS)


def as_size(size: int | Size | list[int]) -> Size:
    """(height, width) from one number or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def decode(image: Image | str | Path, channels: int, image_size: int | Size, decode_size: int | None = None) -> Tensor:
    """Read an image as uint8 (channels, H, W): upright, in RGB or grey, resized and cut at the centre.

    What is transparent is seen on white, whatever colours lie hidden there. Floats are taken as shares of white where
    none is above 1, else as grey levels up to 255.

    Args:
        image: Picture or path.
        channels: 1 (grey) or 3 (RGB).
        image_size: Height and width of the result in pixels.
        decode_size: Length in pixels that the shorter side is resized to before the cut; None to resize just so far
            that the picture covers ``image_size``.

    Raises:
        OSError and others of PIL: The file is missing or broken, has values that are no grey levels, or would be huge
            when it is resized.
        ValueError: ``channels`` is neither 1 nor 3.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if channels not in (1, 3):
        raise ValueError(f"Pictures are read with 1 or 3 channels, not {channels}.")
    if isinstance(image, (str, Path)):
        with open_picture(image) as opened:
            return decode(opened, channels, image_size, decode_size)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _shallow(image)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = as_size(image_size)
    factor = max(height / image.height, width / image.width)
    if decode_size is not None:
        factor = max(factor, decode_size / min(image.height, image.width))
    size = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    if size[0] * size[1] > MOST_PIXELS:
        raise OSError(
            f"{image.width} x {image.height} pixels would become {size[0]} x {size[1]} to cover {width} x {height}"
        )
    if size != image.size:
        image = image.resize(size, pil.Resampling.BILINEAR)  # smooths when it shrinks
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, channels).permute(2, 0, 1).contiguous()


def _shallow(image: Image) -> Image:
    """A picture of floats or 16 bits in 8 bits, which PIL itself would clip instead of scaling."""
    kind, most = (torch.float32, 255) if image.mode == "F" else (torch.int32, 65_535)
    image = image if image.mode == "F" else image.convert("I")
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=kind)
    low, high = float(values.min()), float(values.max())  # nan where one is
    if not 0 <= low <= high <= most:
        raise OSError(f"its values go from {low:g} to {high:g}; expected 0 to 1 or 255 of floats, else 0 to 65535")
    if image.mode == "F":
        scale = 255 if high <= 1 else 1
        return image.point(lambda value: value * scale + 0.5).convert("L")
    return image.point(lambda value: value * (1 / 257)).convert("L")


def normalise(inputs: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``(inputs - mean) / std`` along dimension 1; inputs (B, C, ...), mean and std (C,)."""
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    return (inputs - mean.view(shape)).div_(std.view(shape))


def to_float(inputs: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]; floats as float32 as they are."""
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()


def apply_preprocessing(image: Image | str | Path, preprocessing: dict[str, Any]) -> Tensor:
    """Input of a network, (1, C, H, W) float32, from a picture.

    Args:
        image: Picture or path.
        preprocessing: What ``KDDataModule.preprocessing()`` gave; plain JSON values.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a readable picture, or the network takes feature vectors.
    """
    if preprocessing["image_size"] is None:
        raise ValueError("This network takes feature vectors; it cannot answer for pictures.")
    from PIL import Image as pil

    size, channels = as_size(preprocessing["image_size"]), int(preprocessing["channels"])
    try:
        pixels = decode(image, channels, size, preprocessing.get("decode_size"))
    except FileNotFoundError:
        raise FileNotFoundError(f"No picture at {image}.") from None
    except (OSError, SyntaxError, pil.DecompressionBombError) as error:
        raise ValueError(f"{image} cannot be read as a picture: {error}") from error
    mean, std = (torch.tensor(preprocessing[key], dtype=torch.float32) for key in ("mean", "std"))
    return normalise(to_float(pixels[None]), mean, std)
