"""The numbers of a comparison for other programs: `metrics.json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from kd_lightning.comparison.measured import under
from kd_lightning.comparison.results import Arm, Comparison, Contrast
from kd_lightning.measures import robustness
from kd_lightning.report.plots.alike import similarity_of
from kd_lightning.report.plots.balance import balance
from kd_lightning.report.plots.confusion import MOST_CLASSES, confused_pairs, counts
from kd_lightning.report.plots.gradients import pull
from kd_lightning.report.plots.tradeoff import COSTS, fronts


def metrics(comparison: Comparison) -> dict[str, Any]:
    """Plain numbers under stable names; what is not known is None.

    `arms.<arm>.<metric>.{mean, sd, low, high, n, values}` as fractions, nats and seconds; `arms.<arm>.cost.<field>`;
    `arms.<arm>.per_class.<class>`; `contrasts.<arm>` with the tests against the reference, differences as fractions;
    `further_contrasts` is a list of the same against a second reference.

    Where it was measured, `arms.<arm>` also has `robustness.{clean, noise, blur, shift}` (accuracies at rising
    strength, which `robustness_strengths` names), `similarity.<layer of teacher>.<layer of student>` (linear CKA),
    `gradients.norms.<term>` and `gradients.angle` (degrees, at the end of the training), `confusion` (counts, true
    class by answer, up to 30 classes) and `pareto.<cost>` (1 on the front, else 0). `confused_pairs` has the pairs of
    class numbers that are confused most, with the share of the class that every arm confuses.
    """
    arms = {arm.name: _arm(comparison, arm) for arm in comparison.arms}
    contrasts = {contrast.name: _contrast(contrast, comparison) for contrast in comparison.contrasts}
    further = [
        {"arm": one.name, "reference": one.reference, **_contrast(one, comparison)} for one in comparison.further
    ]
    data = {"alpha": comparison.alpha, "samples": int(comparison.support.sum()), "arms": arms, "contrasts": contrasts}
    strengths = {kind: list(values) for kind, values in robustness.STRENGTHS.items()}
    more = {"further_contrasts": further, "robustness_strengths": strengths, "confused_pairs": _pairs(comparison)}
    return _plain(data | more)  # type: ignore[no-any-return]


def _arm(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    names = sorted({name for row in arm.metrics for name in row})
    result: dict[str, Any] = {
        name: asdict(summary) | {"values": [row[name] for row in arm.metrics if name in row]}
        for name in names
        if (summary := arm.summary(name))
    }
    result["seeds"], result["cost"] = arm.seeds, arm.cost.to_dict()
    result["train_seconds"] = arm.train_seconds
    if comparison.kind.classes:
        even = balance(comparison, arm)
        result["worst_class"], result["class_dispersion"] = even.accuracy, even.dispersion
        result["per_class"] = _by_class(comparison.class_names, arm.class_mean.tolist())
    on = {key: int(arm.name in names) for key, names in fronts(comparison).items() if _cost(arm, key)}
    return result | {"pareto": on} | _probes(arm)


def _cost(arm: Arm, key: str) -> float | None:
    return COSTS[key][1](arm.cost)


def _probes(arm: Arm) -> dict[str, Any]:
    """What is measured beyond the logits of the test split, as far as it was."""
    result: dict[str, Any] = {}
    if 0 < len(arm.class_mean) <= MOST_CLASSES:
        result["confusion"] = counts(arm).tolist()
    if kinds := arm.runs[0].probes.get(robustness.ROBUSTNESS.key):
        clean = under(arm, next(kind for kind in kinds if kind != "clean"))[0]
        result["robustness"] = {"clean": clean} | {kind: under(arm, kind)[1:] for kind in kinds if kind != "clean"}
    if one := similarity_of(arm):
        rows = zip(one.teacher, one.values, strict=True)
        result["similarity"] = {layer: dict(zip(one.student, row, strict=True)) for layer, row in rows}
    if found := pull(arm):
        result["gradients"] = asdict(found)
    return result


def _pairs(comparison: Comparison) -> list[dict[str, Any]]:
    names = [arm.name for arm in comparison.arms]
    return [
        {"target": pair.target, "answer": pair.answer, "rates": dict(zip(names, pair.rates, strict=True))}
        for pair in (confused_pairs(comparison) if comparison.kind.classes else [])
    ]


def _contrast(contrast: Contrast, comparison: Comparison) -> dict[str, Any]:
    test, key = contrast.test, comparison.score.key
    return {
        "seeds": contrast.seeds,
        f"{key}_difference": {"values": contrast.differences} | (asdict(test.difference) if test else {}),
        "p": test.p if test else None,
        "p_holm": contrast.p,
        "cohens_d": test.cohens_d if test else None,
        "mcnemar": [asdict(one) for one in contrast.samples],
        "per_class_change": _by_class(comparison.class_names, contrast.change.tolist()),
    }


def _by_class(names: list[str], values: list[float]) -> dict[str, float]:
    """By name; a name that occurs twice gets its number."""
    keys = [name if names.count(name) == 1 else f"{name} [{i}]" for i, name in enumerate(names)]
    return dict(zip(keys, values, strict=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
