"""Specs of the relation losses."""

from __future__ import annotations

from typing import Any

import torch

from kd_lightning.losses.cc import CCLoss
from kd_lightning.losses.crd import CRDLoss
from kd_lightning.losses.kdsvd import KDSVDLoss
from kd_lightning.losses.pkt import PKTLoss
from kd_lightning.losses.rkd import RKDLoss
from kd_lightning.losses.sp import SPLoss
from kd_lightning.losses.sskd import SSKDLoss
from tests.losses.contract import copy_teacher, spec


def features(batch: int, generator: torch.Generator) -> dict[str, Any]:
    """Pooled features of different width."""
    return {
        "student": torch.randn(batch, 8, generator=generator),
        "teacher": torch.randn(batch, 10, generator=generator),
    }


def maps(batch: int, generator: torch.Generator) -> dict[str, Any]:
    """Post-activation maps of three stages, not square, with the same channels."""
    shapes = [(5, 8, 4), (7, 4, 2), (9, 3, 3)]
    return {
        role: [torch.randn(batch, *shape, generator=generator).relu() for shape in shapes]
        for role in ("student", "teacher")
    }


def unequal_maps(batch: int, generator: torch.Generator) -> dict[str, Any]:
    """The teacher has more channels and smaller maps."""
    teacher = [torch.randn(batch, c, s, s, generator=generator).relu() for c, s in ((7, 4), (9, 3), (11, 2))]
    return {"student": maps(batch, generator)["student"], "teacher": teacher}


def indexed(batch: int, generator: torch.Generator) -> dict[str, Any]:
    """Features with the sample's index in a training set of 20."""
    index = torch.randperm(20, generator=generator)[:batch]
    return {**features(batch, generator), "index": index, "num_samples": 20}


def labelled(batch: int, generator: torch.Generator) -> dict[str, Any]:
    return {**indexed(batch, generator), "target": torch.randint(3, (batch,), generator=generator)}


def ignore(inputs: dict[str, Any]) -> dict[str, Any]:
    return {**inputs, "target": torch.full_like(inputs["target"], -100)}


def views(batch: int, generator: torch.Generator) -> dict[str, Any]:
    """Four stacked views."""
    return features(4 * batch, generator)


spec(name="rkd", make=RKDLoss, inputs=features, equal=copy_teacher, compile=True)
spec(name="rkd_distance", make=lambda: RKDLoss(angle_weight=0.0), inputs=features, equal=copy_teacher)
spec(name="rkd_angle", make=lambda: RKDLoss(distance_weight=0.0), inputs=features, equal=copy_teacher)
spec(name="sp", make=SPLoss, inputs=maps, equal=copy_teacher)
spec(name="pkt", make=PKTLoss, inputs=features, equal=copy_teacher, compile=True)
spec(name="cc", make=lambda: CCLoss(dim=4), inputs=features, permutation=False)
spec(name="kdsvd", make=KDSVDLoss, inputs=maps, equal=copy_teacher)
spec(name="kdsvd_adapted", make=lambda: KDSVDLoss(k=2), inputs=unequal_maps)
# With as many negatives as there are other samples nothing is drawn, so the order of the batch cannot matter.
spec(name="crd", make=lambda: CRDLoss(dim=6, mode="exact"), inputs=indexed)
spec(
    name="crd_exclude_class",
    make=lambda: CRDLoss(dim=6, negatives=8),
    inputs=labelled,
    mask=ignore,
    permutation=False,
)
spec(name="sskd", make=SSKDLoss, inputs=views)
