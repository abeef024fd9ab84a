"""Pictures from strangers: read, measured and unpacked within limits; and the classifier that gets them."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_lightning.data.images.preprocess import KINDS, as_size, decode, normalise, open_picture, to_float
from kd_lightning.deploy.formats.registry import Runner
from kd_lightning.deploy.outputs import task_of
from kd_lightning.deploy.serve.intake import RefusedError, text_under


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        max_bytes: Size of the picture file.
        max_pixels: Size of the picture when unpacked, before and after it is resized.
    """

    max_bytes: int
    max_pixels: int

    def check_size(self, data: bytes) -> bytes:
        """The picture file, where it has a size that is allowed."""
        if not data:
            raise RefusedError(400, "The picture is empty.")
        if len(data) > self.max_bytes:
            raise RefusedError(413, f"The picture has {len(data):,} bytes; at most {self.max_bytes:,} are taken.")
        return data


class PictureIntake:
    """Pictures as JSON or in a form; the model behind gets ``{"pixels": <base64 of uint8 (C, H, W)>}``.

    Args:
        preprocessing: Size and channels of its input.
        limits: What a request may cost.
    """

    how = 'Send a picture as multipart/form-data (field "image") or as application/json ({"image": "<base64>"}).'
    kinds = ("application/json", "multipart/form-data")

    def __init__(self, preprocessing: dict[str, Any], limits: Limits) -> None:
        self.preprocessing, self.limits = preprocessing, limits
        # base64 takes a third more, and names take a little
        self.max_body = limits.max_bytes * 4 // 3 + 65_536
        self.too_large = f"The request is too large; pictures have at most {limits.max_bytes:,} bytes."

    def from_json(self, content: Any) -> dict[str, str]:
        """Pixels of ``{"image": "<base64>"}``; a data URL is taken too."""
        image = text_under(content, "image", self.how)
        if image.startswith("data:"):
            image = image.partition(",")[2]
        try:
            data = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError(400, 'The text under "image" is not base64.') from None
        return self.from_file(data)

    def from_file(self, data: bytes) -> dict[str, str]:
        """Pixels of a picture file."""
        pixels = unpack(self.limits.check_size(data), self.preprocessing, self.limits)
        return {"pixels": base64.b64encode(pixels.numpy().tobytes()).decode()}


class PictureModel:
    """A net of pictures behind the intake.

    Args:
        run: Normalised images (B, C, H, W) to its answer, such as logits (B, classes).
        preprocessing: As in preprocessing.json.
        top: How many classes an answer names.
    """

    def __init__(self, run: Runner, preprocessing: dict[str, Any], top: int) -> None:
        self._run, self._names, self._top = run, preprocessing["class_names"], top
        self._task = task_of(preprocessing)
        self._shape = (int(preprocessing["channels"]), *as_size(preprocessing["image_size"]))
        self._mean, self._std = (torch.tensor(preprocessing[key]) for key in ("mean", "std"))
        self.example = torch.zeros(self._shape, dtype=torch.uint8)

    def decode(self, request: dict[str, str]) -> Tensor:
        """What the intake made to uint8 (C, H, W)."""
        pixels = np.frombuffer(base64.b64decode(request["pixels"]), dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(self._shape).copy())

    def answer(self, pictures: list[Tensor]) -> list[dict[str, Any]]:
        """Answers for pictures (C, H, W)."""
        logits = self._run(normalise(to_float(torch.stack(pictures)), self._mean, self._std))
        return self._task.say(logits, self._names, self._top)


def unpack(data: bytes, preprocessing: dict[str, Any], limits: Limits) -> Tensor:
    """A picture file as uint8 (C, H, W) of the size that the student takes.

    Raises:
        RefusedError: It cannot be read, or is too large when unpacked.
    """
    from PIL import Image, UnidentifiedImageError

    size, decode_size = as_size(preprocessing["image_size"]), preprocessing.get("decode_size")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: limited below; of odd ones: read all the same
            with open_picture(io.BytesIO(data)) as picture:
                _check_pixels(picture.width, picture.height, size, decode_size, limits)
                return decode(picture, int(preprocessing["channels"]), size, decode_size)
    except RefusedError:
        raise
    except Image.DecompressionBombError:
        raise RefusedError(413, f"The picture has more than {limits.max_pixels:,} pixels.") from None
    except UnidentifiedImageError:
        raise RefusedError(422, f"Not a picture that can be read ({', '.join(KINDS)}).") from None
    except Exception as error:  # a damaged or hostile file may raise anything
        raise RefusedError(422, f"The picture is damaged: {str(error)[:200] or type(error).__name__}") from None


def _check_pixels(width: int, height: int, size: tuple[int, int], decode_size: int | None, limits: Limits) -> None:
    """Refuse what would be too large when unpacked, or, being very narrow, when resized."""
    if width < 1 or height < 1:
        raise RefusedError(422, "The picture has no pixels.")
    if width * height > limits.max_pixels:
        raise RefusedError(
            413, f"The picture has {width} x {height} pixels; at most {limits.max_pixels:,} are taken together."
        )
    factor = max(size[0] / height, size[1] / width, (decode_size or 0) / min(width, height))
    if width * factor * height * factor > limits.max_pixels:
        raise RefusedError(422, f"The picture is too narrow to be resized: {width} x {height} pixels.")
