"""Specs of the response losses (logits)."""

from __future__ import annotations

from typing import Any

import torch

from kd_lightning.losses.kd import KDLoss
from tests.losses.contract import copy_teacher, spec

CLASSES = 10


def logits(batch: int, generator: torch.Generator) -> dict[str, Any]:
    return {
        "student": torch.randn(batch, CLASSES, generator=generator) * 2,
        "teacher": torch.randn(batch, CLASSES, generator=generator) * 2,
    }


def labelled(batch: int, generator: torch.Generator) -> dict[str, Any]:
    return {**logits(batch, generator), "target": torch.randint(CLASSES, (batch,), generator=generator)}


def mask(inputs: dict[str, Any]) -> dict[str, Any]:
    """Every position masked through ``mask``."""
    return {**inputs, "mask": torch.zeros(len(inputs["student"]), dtype=torch.bool)}


def ignore(inputs: dict[str, Any]) -> dict[str, Any]:
    """Every position ignored through the target -100."""
    return {**inputs, "target": torch.full_like(inputs["target"], -100)}


spec(name="kd", make=KDLoss, inputs=logits, equal=copy_teacher, mask=mask, compile=True)
