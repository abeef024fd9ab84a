"""Specs of the feature losses FitNet, AT, VID, NST, FSP, AB, FT, OFD and ReviewKD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.losses.ab import ABLoss
from kd_lightning.losses.at import ATLoss
from kd_lightning.losses.fitnet import FitNetLoss
from kd_lightning.losses.fsp import FSPLoss
from kd_lightning.losses.ft import FTLoss
from kd_lightning.losses.nst import NSTLoss
from kd_lightning.losses.ofd import OFDLoss
from kd_lightning.losses.reviewkd import ReviewKDLoss
from kd_lightning.losses.vid import VIDLoss
from tests.losses.contract import copy_teacher, spec

Shape = tuple[int, ...]
Inputs = Callable[[int, torch.Generator], dict[str, Any]]

NARROW = [(3, 8, 8), (4, 4, 4)]
WIDE = [(5, 8, 8), (7, 4, 4)]
UNEVEN = [(3, 8, 6), (4, 2, 3)]  # another size than WIDE on a side each


def maps(student: list[Shape], teacher: list[Shape], **more: Any) -> Inputs:
    """Lists of maps of these shapes without the batch."""

    def draw(batch: int, generator: torch.Generator) -> dict[str, Any]:
        def rows(shapes: list[Shape]) -> list[Tensor]:
            return [torch.randn(batch, *shape, generator=generator) for shape in shapes]

        return {"student": rows(student), "teacher": rows(teacher), **more}

    return draw


def beyond_margin(inputs: dict[str, Any]) -> dict[str, Any]:
    """Pre-activations on the teacher's side, further away than the margin of 1."""
    return {**inputs, "student": [t + t.sign() for t in inputs["teacher"]]}


NORMS = [nn.BatchNorm2d(shape[0]) for shape in WIDE]

spec(name="fitnet", make=FitNetLoss, inputs=maps(NARROW[:1], WIDE[1:]))
spec(name="fitnet_direct", make=lambda: FitNetLoss(relu=False), inputs=maps(UNEVEN, WIDE))
spec(name="at", make=ATLoss, inputs=maps(NARROW, WIDE), compile=True)
spec(name="at_equal", make=lambda: ATLoss(p=3), inputs=maps(WIDE, WIDE), equal=copy_teacher)
spec(name="nst", make=NSTLoss, inputs=maps(UNEVEN, WIDE))
spec(name="nst_equal", make=NSTLoss, inputs=maps(WIDE, WIDE), equal=copy_teacher)
spec(name="vid", make=VIDLoss, inputs=maps(UNEVEN, WIDE))
spec(name="fsp", make=FSPLoss, inputs=maps(NARROW, WIDE))
spec(name="fsp_equal", make=FSPLoss, inputs=maps(WIDE, WIDE), equal=copy_teacher)
spec(name="ab", make=ABLoss, inputs=maps(NARROW, WIDE))
spec(name="ab_equal", make=ABLoss, inputs=maps(WIDE, WIDE), equal=beyond_margin)
spec(name="ft", make=FTLoss, inputs=maps(NARROW[:1], WIDE[1:]))
spec(name="ofd", make=OFDLoss, inputs=maps(NARROW, WIDE, norms=NORMS))
spec(name="ofd_measured", make=OFDLoss, inputs=maps(UNEVEN, WIDE))
# The last level is a vector: its batch norm has one value per channel where the batch is one sample.
spec(
    name="reviewkd",
    make=ReviewKDLoss,
    inputs=maps([*NARROW, (6,)], [*WIDE, (8,)]),
    batch_of_one=False,
    compile=True,
)
spec(name="reviewkd_maps", make=lambda: ReviewKDLoss(max_hidden=3), inputs=maps(UNEVEN, WIDE))
