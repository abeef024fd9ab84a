"""Pictures from strangers: every request is read, measured and unpacked within limits, or refused with a reason."""

from __future__ import annotations

import base64
import binascii
import io
import json
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kd_lightning.data.preprocess import as_size, decode

# What PIL may try. Left out are those that start other programs (EPS) or have no business here.
KINDS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


class RefusedError(Exception):
    """A request that is not answered: an HTTP status and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        max_bytes: Size of the picture file.
        max_pixels: Size of the picture when unpacked, before and after it is resized.
        seconds: Time to send the request.
    """

    max_bytes: int
    max_pixels: int
    seconds: float

    @property
    def max_body(self) -> int:
        """Size of a request that can hold such a picture: base64 takes a third more, and names take a little."""
        return self.max_bytes * 4 // 3 + 65_536

    def check_size(self, data: bytes) -> bytes:
        """The picture file, where it has a size that is allowed."""
        if not data:
            raise RefusedError(400, "The picture is empty.")
        if len(data) > self.max_bytes:
            raise RefusedError(413, f"The picture has {len(data):,} bytes; at most {self.max_bytes:,} are taken.")
        return data


def picture_in_json(body: bytes, limits: Limits) -> bytes:
    """The picture file of a body ``{"image": "<base64>"}``; a data URL is taken too.

    Raises:
        RefusedError: It is not such a body.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, 'The body is not JSON. Send {"image": "<base64 of a picture file>"}.') from None
    image = content.get("image") if isinstance(content, dict) else None
    if not isinstance(image, str):
        raise RefusedError(400, 'The JSON has no text under "image". Send {"image": "<base64 of a picture file>"}.')
    if image.startswith("data:"):
        image = image.partition(",")[2]
    try:
        data = base64.b64decode("".join(image.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(400, 'The text under "image" is not base64.') from None
    return limits.check_size(data)


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
            with Image.open(io.BytesIO(data), formats=KINDS) as picture:
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
