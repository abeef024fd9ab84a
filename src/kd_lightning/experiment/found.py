"""Artifacts grouped into arms: trainings of one recipe under several seeds belong together."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.comparison.records import Arm
from kd_lightning.config.identity import of_recipe
from kd_lightning.config.renamed import with_canonical_names
from kd_lightning.config.values import plain
from kd_lightning.files.artifact import RECORD, Artifact, Part

_Described = tuple[Artifact, dict[str, Any]]
"""An artifact with what decides its recipe, dotted."""


def finished_below(patterns: Sequence[str]) -> list[Artifact]:
    """Artifacts of the finished trainings at or below folders or glob patterns.

    Raises:
        FileNotFoundError: Where a pattern leads to none.
    """
    found: list[Path] = []
    for pattern in patterns:
        below = [p.parent for match in glob.glob(pattern, recursive=True) for p in sorted(Path(match).rglob(RECORD))]
        if not below:
            raise FileNotFoundError(f"runs: no finished training at or below '{pattern}'.")
        found.extend(below)
    return [Artifact.open(folder) for folder in dict.fromkeys(found)]


def find_arms(artifacts: Iterable[Artifact]) -> list[Arm]:
    """Arms in the order of validation, teachers first.

    Args:
        artifacts: Of finished trainings; a second one of the same identity is left out.
    """
    groups: list[list[_Described]] = []
    taken: set[str] = set()
    for artifact in artifacts:
        if artifact.record["identity"] in taken:
            continue
        taken.add(artifact.record["identity"])
        own = (artifact, _settings(artifact))
        # The same recipe and seed with another identity, on other samples say, is another arm.
        fitting = (g for g in groups if _same_recipe(g[0], own) and all(a.seed != artifact.seed for a, _ in g))
        group = next(fitting, None)
        if group is None:
            groups.append([own])
        else:
            group.append(own)
    arms = [_arm([artifact for artifact, _ in group]) for group in groups]
    arms.sort(key=lambda arm: (not arm.teaches, -validation(arm)))
    _tell_apart(arms)
    return arms


def is_control(arm: Arm) -> bool:
    """The student alone of a pipeline or study; without a teacher there are other methods too."""
    first = arm.runs[0]
    return first.kind is Part.ALONE and str(first.record["label"]).startswith("student alone")


def control_of(arm: Arm, found: Sequence[Arm]) -> Arm | None:
    """What an arm is tested against: the same model trained alone, the first of several."""
    if arm.teaches:
        return None
    model = arm.runs[0].record["model"]
    first = next((one for one in found if is_control(one) and one.runs[0].record["model"] == model), None)
    return None if first is arm else first


def validation(arm: Arm) -> float:
    """Mean of the monitored metric over the seeds, larger is better; -inf where there is none."""
    sign = -1.0 if arm.runs[0].settings.metrics.mode == "min" else 1.0
    values = [float("-inf") if one.score is None else sign * one.score for one in arm.runs]
    return sum(values) / len(values)


def shown_validation(arm: Arm) -> str:
    """The same as the metric has it."""
    value = validation(arm)
    return "not measured" if value == float("-inf") else f"{abs(value):.4f}"


def _arm(runs: list[Artifact]) -> Arm:
    record = runs[0].record
    arm = Arm("", runs[0].kind, runs)
    if arm.teaches:
        arm.name = str(record["label"])
    else:
        arm.name = f"{record['model']} alone" if is_control(arm) else f"{record['model']} + {record['method']}"
    return arm


def _same_recipe(one: _Described, other: _Described) -> bool:
    """Whether two trainings differ in the seed only, and in what follows from it."""
    if any(one[0].record[key] != other[0].record[key] for key in ("kind", "model", "method")):
        return False
    return not _differences(one, other)


def _differences(one: _Described, other: _Described) -> list[str]:
    """Settings, dotted, in which two trainings differ beside their seeds."""
    (first, a), (second, b) = one, other
    seeds = (first.seed, second.seed)
    differ = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return [key for key in differ if not (key.endswith("seed") and (a.get(key), b.get(key)) == seeds)]


def _settings(artifact: Artifact) -> dict[str, Any]:
    """What decides a recipe, dotted."""
    taught = artifact.kind is Part.DISTILLED
    return dict(_flat(with_canonical_names(of_recipe(plain(artifact.settings), taught))))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tell_apart(arms: list[Arm]) -> None:
    """Add to names that occur twice what the arms differ in."""
    for name, times in Counter(arm.name for arm in arms).items():
        if times == 1:
            continue
        same = [arm for arm in arms if arm.name == name]
        firsts = [(arm.runs[0], _settings(arm.runs[0])) for arm in same]
        differ = sorted({key for first in firsts for key in _differences(firsts[0], first)})
        for arm, (_, settings) in zip(same, firsts, strict=True):
            told = ", ".join(f"{key.rpartition('.')[2]}={settings.get(key)}" for key in differ[:2])
            arm.name = f"{name} ({told})" if told else name
    counts = Counter(arm.name for arm in arms)
    for number, arm in enumerate(arms, 1):
        if counts[arm.name] > 1:
            arm.name = f"{arm.name} #{number}"
