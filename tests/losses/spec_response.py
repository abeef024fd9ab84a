"""Specs of the response losses (logits)."""

from __future__ import annotations

from typing import Any

import torch

from kd_lightning.losses.cross_entropy import CrossEntropyLoss
from kd_lightning.losses.cs_kd import CSKDLoss
from kd_lightning.losses.ctkd import CTKDLoss
from kd_lightning.losses.dist import DISTLoss
from kd_lightning.losses.dkd import DKDLoss
from kd_lightning.losses.kd import KDLoss
from kd_lightning.losses.label_smoothing import LabelSmoothingLoss, VirtualTeacherLoss
from kd_lightning.losses.logits_mse import LogitsMSELoss
from kd_lightning.losses.mft import MFTLoss
from kd_lightning.losses.mlkd import MLKDLoss
from kd_lightning.losses.multilabel import BinaryCrossEntropyLoss, MultiLabelKDLoss
from kd_lightning.losses.nkd import NKDLoss
from kd_lightning.losses.regression import RegressionKDLoss, SmoothL1Loss
from kd_lightning.losses.soft_target_ce import SoftTargetCELoss
from kd_lightning.losses.ttm import TTMLoss, WTTMLoss
from kd_lightning.losses.uskd import USKDLoss
from kd_lightning.losses.wsld import WSLDLoss
from tests.losses.contract import copy_teacher, spec

CLASSES = 10
Inputs = dict[str, Any]


def logits(batch: int, generator: torch.Generator) -> Inputs:
    return {
        "student": torch.randn(batch, CLASSES, generator=generator) * 2,
        "teacher": torch.randn(batch, CLASSES, generator=generator) * 2,
    }


def tokens(batch: int, generator: torch.Generator) -> Inputs:
    return {
        "student": torch.randn(batch, 3, CLASSES, generator=generator) * 2,
        "teacher": torch.randn(batch, 3, CLASSES, generator=generator) * 2,
    }


def labelled(batch: int, generator: torch.Generator) -> Inputs:
    """Every other label is the student's own choice: in some places it is right and, times 100, certain."""
    inputs = logits(batch, generator)
    target = torch.randint(CLASSES, (batch,), generator=generator)
    target[::2] = inputs["student"][::2].argmax(-1)
    return {**inputs, "target": target}


def labels_only(batch: int, generator: torch.Generator) -> Inputs:
    inputs = labelled(batch, generator)
    return {"student": inputs["student"], "target": inputs["target"]}


def views(batch: int, generator: torch.Generator) -> Inputs:
    """Two views or partners stacked: 2B rows."""
    return logits(2 * batch, generator)


def mask(inputs: Inputs) -> Inputs:
    """Every position masked through ``mask``."""
    return {**inputs, "mask": torch.zeros(inputs["student"].shape[:-1], dtype=torch.bool)}


def mask_views(inputs: Inputs) -> Inputs:
    return {**inputs, "mask": torch.zeros(len(inputs["student"]) // 2, dtype=torch.bool)}


def ignore(inputs: Inputs) -> Inputs:
    """Every position ignored through the target -100."""
    return {**inputs, "target": torch.full_like(inputs["target"], -100)}


spec(name="kd", make=KDLoss, inputs=logits, equal=copy_teacher, mask=mask, compile=True)
spec(name="kd_tokens", make=KDLoss, inputs=tokens, equal=copy_teacher, mask=mask)
spec(
    name="standardize",
    make=lambda: KDLoss(temperature=2.0, standardize=True),
    inputs=logits,
    equal=copy_teacher,
    mask=mask,
)
spec(name="soft_target_ce", make=SoftTargetCELoss, inputs=tokens, mask=mask)
spec(name="logits_mse", make=LogitsMSELoss, inputs=tokens, equal=copy_teacher, mask=mask)

spec(name="dkd", make=DKDLoss, inputs=labelled, equal=copy_teacher, mask=ignore, compile=True)
spec(
    name="dkd_standardize",
    make=lambda: DKDLoss(temperature=2.0, standardize=True),
    inputs=labelled,
    equal=copy_teacher,
    mask=mask,
)
spec(name="nkd", make=NKDLoss, inputs=labelled, mask=ignore)
spec(name="wsld", make=WSLDLoss, inputs=labelled, mask=ignore)
spec(name="mft", make=MFTLoss, inputs=labelled, mask=ignore)

spec(name="dist", make=lambda: DISTLoss(temperature=4.0), inputs=logits, mask=mask, compile=True)
spec(name="dist_tokens", make=DISTLoss, inputs=tokens, mask=mask)
spec(name="ttm", make=TTMLoss, inputs=tokens, mask=mask)
spec(name="ttm_weighted", make=WTTMLoss, inputs=tokens, mask=mask)

spec(name="mlkd", make=MLKDLoss, inputs=views, equal=copy_teacher, mask=mask_views)
spec(
    name="mlkd_as_coded",
    make=lambda: MLKDLoss(as_coded=True, standardize=True),
    inputs=views,
    equal=copy_teacher,
    mask=mask_views,
)
spec(
    name="cs_kd",
    make=CSKDLoss,
    inputs=lambda batch, generator: {"student": views(batch, generator)["student"]},
    teacher=(),
    equal=lambda inputs: {"student": inputs["student"].chunk(2)[0].repeat(2, 1)},
    mask=mask_views,
)
spec(
    name="ctkd",
    make=CTKDLoss,
    inputs=lambda batch, generator: {**logits(batch, generator), "epoch": 4},
    equal=copy_teacher,
    mask=mask,
    compile=True,
)

spec(name="cross_entropy", make=CrossEntropyLoss, inputs=labels_only, teacher=(), mask=ignore)
spec(
    name="cross_entropy_soft",
    make=lambda: CrossEntropyLoss(label_smoothing=0.1),
    inputs=lambda batch, generator: {
        "student": logits(batch, generator)["student"],
        "target": torch.rand(batch, CLASSES, generator=generator).softmax(-1),
    },
    teacher=(),
    mask=mask,
)
spec(name="label_smoothing", make=LabelSmoothingLoss, inputs=labels_only, teacher=(), mask=ignore)
spec(name="label_smoothing_virtual_teacher", make=VirtualTeacherLoss, inputs=labels_only, teacher=(), mask=ignore)
spec(
    name="uskd",
    make=USKDLoss,
    inputs=lambda batch, generator: {
        **labels_only(batch, generator),
        "feature": torch.randn(batch, 8, 4, 5, generator=generator),
    },
    student=("student", "feature"),
    teacher=(),
    mask=ignore,
)

spec(name="multilabel", make=MultiLabelKDLoss, inputs=tokens, equal=copy_teacher, mask=mask)
spec(
    name="multilabel_bce",
    make=BinaryCrossEntropyLoss,
    inputs=lambda batch, generator: {
        "student": logits(batch, generator)["student"],
        "target": torch.randint(2, (batch, CLASSES), generator=generator),
    },
    teacher=(),
    mask=ignore,
)


def values(batch: int, generator: torch.Generator) -> Inputs:
    return {name: torch.randn(batch, 4, generator=generator) for name in ("student", "teacher", "target")}


def unknown(inputs: Inputs) -> Inputs:
    return {**inputs, "target": torch.full_like(inputs["target"], torch.nan)}


spec(name="regression", make=RegressionKDLoss, inputs=values, equal=copy_teacher, mask=unknown)
spec(name="regression_imitation", make=RegressionKDLoss, inputs=logits, equal=copy_teacher, mask=mask)
spec(
    name="regression_smooth_l1",
    make=SmoothL1Loss,
    inputs=lambda batch, generator: {k: v for k, v in values(batch, generator).items() if k != "teacher"},
    teacher=(),
    equal=lambda inputs: {**inputs, "student": inputs["target"]},
    mask=unknown,
)
