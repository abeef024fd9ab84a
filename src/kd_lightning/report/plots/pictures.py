"""Small pictures of samples as PNG data URIs, so that the report needs no file beside it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_lightning.comparison.results import Comparison, Contrast
from kd_lightning.measures import format as fmt

SHOWN = 24  # samples per list, fewer where there are many lists
IN_TOTAL = 96
SHARP = 48  # pixels: larger pictures are photographs and stored as JPEG, a sixth of the size
LARGEST = 96  # pixels: larger pictures are made smaller before they are put into the page
LONGEST = 240  # characters of a text


@dataclass(frozen=True)
class Sample:
    """A test sample on which two arms differ."""

    index: int
    target: str
    reference_says: str
    arm_says: str
    picture: str | None
    text: str | None = None


def picture_uri(image: Tensor) -> str:
    """A picture (C, H, W) or (H, W) as `data:image/png;base64,...`, or `jpeg` where it is larger than 48 pixels.

    uint8 is taken as it is; floats within [0, 1] are scaled, others (normalised ones) stretched to their own range.
    One channel is grey, three are RGB; of any other number the first is shown.
    """
    from PIL import Image

    pixels = image.detach().cpu()
    pixels = pixels if pixels.ndim == 3 else pixels.reshape(-1, *pixels.shape[-2:])
    pixels = pixels if len(pixels) in (1, 3) else pixels[:1]
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().nan_to_num()
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            pixels = (pixels - low) / max(high - low, 1e-12)
        pixels = (255 * pixels).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array)
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    kind = "png" if max(picture.size) <= SHARP else "jpeg"
    picture.save(buffer, format=kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shown_each(comparison: Comparison) -> int:
    """How many samples a list shows."""
    return max(4, min(SHOWN, IN_TOTAL // (2 * max(len(comparison.contrasts), 1))))


def samples(comparison: Comparison, contrast: Contrast, which: Tensor) -> list[Sample]:
    """The first of the samples `which` (`contrast.won` or `.lost`), with what each arm says under the first seed."""
    if not len(which):
        return []
    seed, names = contrast.seeds[0], [fmt.clean(name, 24) for name in comparison.class_names]
    base, arm = comparison.arm(contrast.reference).run(seed), comparison.arm(contrast.name).run(seed)
    which = which[: shown_each(comparison)]
    rows = torch.searchsorted(base.index, which)
    answers = [run.logits[rows].argmax(1).tolist() for run in (base, arm)]
    shown = zip(which.tolist(), base.target[rows].tolist(), *answers, strict=True)
    return [Sample(i, names[t], names[a], names[b], *_look(comparison.images.get(i))) for i, t, a, b in shown]


def _look(sample: Tensor | str | None) -> tuple[str | None, str | None]:
    """Its picture or its text."""
    if isinstance(sample, str):
        return None, fmt.clean(sample, LONGEST)
    return None if sample is None else picture_uri(sample), None
