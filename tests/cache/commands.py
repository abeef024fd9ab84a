"""The command that the tests of the teacher cache run, and what it leaves."""

import csv
from pathlib import Path

import pytest

from tests.conftest import QUICK

# 112 training samples that are augmented; the net is small, without dropout.
TRAIN = [
    *["data=synthetic", "data.source.samples=160", "data.image_size=8", "data.num_classes=3", *QUICK],
    *["job=train", "teacher.fit=null", "teacher.views=2", "trainer.max_epochs=4"],
]
FP32 = "teacher.cache_dtype=fp32"


def losses(folder):
    """Mean training losses of every epoch, by name."""
    with (folder / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [{k: float(v) for k, v in row.items() if k.startswith("train/")} for row in rows]


def files():
    return sorted(Path("outputs/cache").rglob("*.safetensors"))


def close(a, b, tolerance):
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
