"""A comparison with everything on its card: validation logits, robustness, likeness and gradients."""

from __future__ import annotations

from kd_lightning.comparison.records import Similarity
from kd_lightning.comparison.results import Comparison, compare
from kd_lightning.measures.robustness import STRENGTHS
from tests.report import build

RIGHTS = {"teacher": [97], "student alone": [80, 82], "student + kd": [86, 90]}


def comparison(classes: int = 10, names: list[str] | None = None, layer: str = "layer1", images=None) -> Comparison:
    arms = build.arms(RIGHTS, classes, curves=[])
    for arm in arms:
        for run in arm.runs:
            run.validation = (run.logits[40:], run.target[40:])
            drop = 0.1 if arm.kind == "distilled" else 0.2
            run.probes["robustness"] = {"clean": [0.9]} | {
                kind: [0.9 - drop * i for i in (1, 2, 3)] for kind in STRENGTHS
            }
            run.curves = build.curves()
            for row in run.curves[::2]:
                row["grad/ce"] = "0.5"
            if arm.kind == "distilled":
                for row in run.curves[::2]:
                    row |= {"grad/kd": "2.0", "grad/cosine": "0.5"}
            if arm.kind != "teacher":
                run.similarity = Similarity([layer, "embedding"], ["conv", "embedding"], [[0.9, 0.5], [0.25, 0.75]])
    return compare(arms, names or [f"class {i}" for i in range(classes)], images=images)
