"""Terms: a loss, where its arguments come from, and its weight."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.references import Reference
from kd_lightning.core.schedules import Constant, Progress

Schedule = Callable[[Progress], float]
Source = Reference | list[Reference]


def _parse(name: str, argument: str, text: Any) -> Source:
    """A reference or a list of them."""
    if isinstance(text, str):
        return Reference.parse(text)
    if isinstance(text, Sequence):
        return [Reference.parse(item) for item in text]
    raise ValueError(f"Term '{name}': the input '{argument}' must be a reference or a list of references, not {text!r}")


class Term(nn.Module):
    """One summand of the objective.

    Args:
        name: Its name in logs.
        loss: Module whose ``forward`` takes the arguments named in ``inputs``; may have ``build`` to create its
            parameters from example tensors, and ``param_groups`` for special optimiser settings.
        inputs: Argument name -> reference or list of references.
        weight: A number or a schedule.

    Raises:
        ValueError: Where ``inputs`` does not fit the loss's ``forward``.
    """

    def __init__(self, name: str, loss: nn.Module, inputs: Mapping[str, Any], weight: float | Schedule = 1.0) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.sources: dict[str, Source] = {arg: _parse(name, arg, text) for arg, text in inputs.items()}
        self.weight: Schedule = weight if callable(weight) else Constant(weight)
        try:
            inspect.signature(loss.forward).bind(**self.sources)
        except TypeError as error:
            signature = ", ".join(inspect.signature(loss.forward).parameters)
            raise ValueError(
                f"Term '{name}': {error}. {type(loss).__name__}.forward takes ({signature}), the term gives"
                f" ({', '.join(self.sources)})."
            ) from None

    def references(self) -> Iterator[Reference]:
        """Every reference of the term."""
        for source in self.sources.values():
            yield from source if isinstance(source, list) else [source]

    def arguments(self, resolve: Callable[[Reference], Any]) -> dict[str, Any]:
        """Arguments of the loss; lists of references become flat lists of values."""
        arguments: dict[str, Any] = {}
        for name, source in self.sources.items():
            if isinstance(source, Reference):
                arguments[name] = resolve(source)
                continue
            values = [resolve(reference) for reference in source]
            arguments[name] = [v for value in values for v in (value if isinstance(value, list) else [value])]
        return arguments

    def build(self, arguments: dict[str, Any]) -> None:
        """Let the loss create its parameters from example arguments."""
        build = getattr(self.loss, "build", None)
        if callable(build):
            build(**arguments)


@dataclass(frozen=True)
class Stage:
    """One stage of a multi-stage method.

    Attributes:
        terms: Names of the terms that are active.
        fraction: Its share of the training; the shares of all stages add up to 1.
        params: Regular expressions over the names of the parameters that learn (``student\\.layer1``,
            ``terms\\.ft``); None for all.
    """

    terms: tuple[str, ...]
    fraction: float
    params: tuple[str, ...] | None = None


class Objective(nn.Module):
    """The weighted sum of the terms, each named.

    Args:
        terms: The terms.
        stages: Stages of the method; empty for one stage with everything.

    Raises:
        ValueError: Where a stage names an unknown term or the shares do not add up to 1.
    """

    def __init__(self, terms: Sequence[Term], stages: Sequence[Stage] = ()) -> None:
        super().__init__()
        if not terms:
            raise ValueError("The method has no terms: give at least one under method.terms.")
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        # Filled with the weighted terms of the next step, graph and all, where a callback puts a dictionary here.
        self.watched: dict[str, Tensor] | None = None
        self.stages = tuple(stages)
        for stage in self.stages:
            unknown = set(stage.terms) - set(self.terms)
            if unknown:
                raise ValueError(f"A stage names unknown terms {sorted(unknown)}; there are {sorted(self.terms)}.")
        if self.stages and abs(sum(stage.fraction for stage in self.stages) - 1) > 1e-6:
            raise ValueError("The fractions of method.stages must add up to 1.")

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms.values())  # type: ignore[arg-type]

    def stage(self, progress: Progress) -> Stage | None:
        """The stage at this point, or None where the method has no stages."""
        passed = 0.0
        for stage in self.stages:
            passed += stage.fraction
            if progress.fraction < passed - 1e-9:
                return stage
        return self.stages[-1] if self.stages else None

    def forward(self, resolve: Callable[[Reference], Any], progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and every term's own value, unweighted and detached.

        Args:
            resolve: Gives the value of a reference.
            progress: Where the training is, for schedules and stages.
        """
        stage = self.stage(progress)
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for term in self:
            if stage is not None and term.name not in stage.terms:
                continue
            value = term.loss(**term.arguments(resolve))
            parts[term.name] = value.detach()
            weighted = term.weight(progress) * value
            if self.watched is not None:
                self.watched[term.name] = weighted
            total = weighted if total is None else total + weighted
        assert total is not None  # a stage has at least one term
        return total, parts


def param_groups(objective: Objective) -> list[dict[str, Any]]:
    """Optimiser groups of the losses' own parameters; a loss may give its own through ``param_groups()``."""
    groups: list[dict[str, Any]] = []
    for term in objective:
        special = getattr(term.loss, "param_groups", None)
        if callable(special):
            groups.extend(special())
        else:
            parameters = [p for p in term.parameters() if p.requires_grad]
            if parameters:
                groups.append({"params": parameters})
    return groups


def shape_of(value: Any) -> str:
    """Readable shape of an argument, for the table printed at start."""
    if isinstance(value, Tensor):
        return "×".join(map(str, value.shape)) or "scalar"
    if isinstance(value, list):
        return "[" + ", ".join(shape_of(v) for v in value) + "]"
    if isinstance(value, nn.Module):
        return type(value).__name__
    return repr(value) if not isinstance(value, torch.device) else str(value)
