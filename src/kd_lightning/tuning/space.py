"""What is searched: sweeps of the command line, and settings that every method has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

# A layer that every net of three or more stages has, counted from the end.
LAYERS = ("-1", "-2", "-3")
PARTS = ("temperature", "weights", "taps")


@dataclass(frozen=True)
class Dimension:
    """One number or choice that is searched.

    Attributes:
        name: What the tables and the storage call it.
        distribution: Where its values come from.
        settings: Key of an override -> its value, with {} for the searched one.
    """

    name: str
    distribution: BaseDistribution
    settings: dict[str, str]

    def overrides(self, value: Any) -> list[str]:
        """The overrides that set it."""
        return [f"{key}={template.format(shown(value))}" for key, template in self.settings.items()]


def shown(value: Any) -> Any:
    """Floats with four digits: those are used, printed and written out alike."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def from_override(override: Override) -> Dimension:
    """``key=a,b``, ``choice(...)``, ``range(...)``, ``interval(...)``, each also within ``int()`` or ``tag(log, ...)``.

    Raises:
        ValueError: An interval that is empty, or not positive where it is logarithmic.
    """
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        return Dimension(key, _interval(key, value.start, value.end, "log" in value.tags), {key: "{}"})
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        if numbers and all(isinstance(n, int) for n in numbers) and len(numbers) > 1:
            step = abs(numbers[1] - numbers[0])
            return Dimension(key, IntDistribution(min(numbers), max(numbers), step=step), {key: "{}"})
    return Dimension(key, CategoricalDistribution(list(override.sweep_string_iterator())), {key: "{}"})


def _interval(key: str, low: float, high: float, log: bool) -> BaseDistribution:
    if not (math.isfinite(low) and low < high and (low > 0 or not log)):
        kind = "a logarithmic interval needs 0 < low < high" if log else "an interval needs low < high"
        raise ValueError(f"{key}: {kind}, got {low:g} and {high:g}.")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def of_method(method: DictConfig, parts: Sequence[str]) -> Iterator[Dimension]:
    """The settings of a method that are worth searching.

    Args:
        method: Its configuration.
        parts: ``temperature``: of every loss that has one, from a quarter to four times its value. ``weights``: of
            every term that uses the teacher, from a tenth to ten times. ``taps``: the stage that every term takes its
            features from, of the last three, the same for teacher and student.

    Raises:
        ValueError: An unknown part.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"hydra.sweeper.space: unknown {', '.join(sorted(unknown))}. There are: {', '.join(PARTS)}.")
    for name, term in method.terms.items():
        if term is None:
            continue
        path, inputs = f"method.terms.{name}", _references(term)
        if "temperature" in parts and _positive(term.loss.get("temperature")):
            yield _around(f"{path}.loss.temperature", term.loss.temperature, 4)
        if "weights" in parts and any(value.startswith("teacher.") for value in inputs.values()):
            where = "weight" if not OmegaConf.is_config(term.weight) else "weight.value"
            weight = OmegaConf.select(term, where)
            if _positive(weight):
                yield _around(f"{path}.{where}", weight, 10)
        if "taps" in parts:
            taps = {key: re.sub(r"\[-?\d+\]", "[{}]", value) for key, value in inputs.items() if _is_tap(value)}
            if taps:
                settings = {f"{path}.inputs.{key}": f"'{template}'" for key, template in taps.items()}
                yield Dimension(f"{path}.stage", CategoricalDistribution(LAYERS), settings)


def _references(term: DictConfig) -> dict[str, str]:
    """Inputs that are one reference; lists of them have no single layer to choose."""
    return {str(key): value for key, value in term.inputs.items() if isinstance(value, str)}


def _is_tap(reference: str) -> bool:
    return re.fullmatch(r"\w+\.(stages|preacts)\[-?\d+\](![\w]+)?", reference) is not None


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _around(key: str, value: float, factor: float) -> Dimension:
    return Dimension(key, FloatDistribution(value / factor, value * factor, log=True), {key: "{}"})
