"""Terms: a loss, where its arguments come from, and its weight."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class FunctionLoss(nn.Module):
    """A plain function as a loss: a module without parameters, and with nothing in a checkpoint.

    Args:
        function: Takes the arguments named in a term's ``inputs``; its numbers may be bound (``functools.partial``).
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.bound: set[str] = set()
        self.unbound: Any = function
        while isinstance(self.unbound, functools.partial):
            self.bound |= set(self.unbound.keywords)
            self.unbound = self.unbound.func
        self.title = str(getattr(self.unbound, "__qualname__", type(self.unbound).__qualname__))

    def forward(self, **arguments: Any) -> Tensor:
        """As the function."""
        return self.function(**arguments)

    def extra_repr(self) -> str:
        """Name of the function."""
        return self.title


def _as_module(name: str, loss: Any, inputs: Mapping[str, Any]) -> nn.Module:
    """A loss as a module, which it is or becomes; what is bound to a function must be its own and no input."""
    if isinstance(loss, nn.Module):
        return loss
    if not callable(loss):
        raise ValueError(f"Term '{name}': a loss is a module or a function, not {loss!r}.")
    module = FunctionLoss(loss)
    if isinstance(module.unbound, type):
        raise ValueError(f"Term '{name}': {module.title} is a class, of which a loss is made: leave out _partial_.")
    parameters = inspect.signature(module.unbound).parameters
    unknown = sorted(module.bound - set(parameters))
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        raise ValueError(
            f"Term '{name}': {module.title} takes no argument '{unknown[0]}', but ({', '.join(parameters)})."
        )
    twice = sorted(module.bound & set(inputs))
    if twice:
        raise ValueError(f"Term '{name}': '{twice[0]}' of {module.title} is given twice, by loss and by inputs.")
    return module


class Term(nn.Module):
    """One summand of the objective.

    Args:
        name: Its name in logs.
        loss: Module whose ``forward`` takes the arguments named in ``inputs``; may have ``build`` to create its
            parameters from example tensors, and ``param_groups`` for special optimiser settings. Or a plain function
            that takes them, its numbers bound by ``functools.partial``.
        inputs: Argument name -> reference or list of references.
        weight: A number or a schedule.

    Raises:
        ValueError: Where ``inputs`` does not fit the loss's ``forward``, or gives what is already bound.
    """

    def __init__(
        self,
        name: str,
        loss: nn.Module | Callable[..., Tensor],
        inputs: Mapping[str, Any],
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.loss = _as_module(name, loss, inputs)
        self.sources: dict[str, Source] = {arg: _parse(name, arg, text) for arg, text in inputs.items()}
        self.weight: Schedule = weight if callable(weight) else Constant(weight)
        function, called = self.loss.forward, f"{type(self.loss).__name__}.forward"
        if isinstance(self.loss, FunctionLoss):
            function, called = self.loss.function, self.loss.title
        signature = inspect.signature(function)
        try:
            signature.bind(**self.sources)
        except TypeError as error:
            raise ValueError(
                f"Term '{name}': {error}. {called} takes ({', '.join(signature.parameters)}), the term gives"
                f" ({', '.join(self.sources)})."
            ) from None

    @property
    def title(self) -> str:
        """What its loss is called."""
        return str(getattr(self.loss, "title", type(self.loss).__name__))

    def asked(self, argument: str) -> str:
        """Where an argument comes from, in words."""
        source = self.sources[argument]
        return str(source) if isinstance(source, Reference) else f"[{', '.join(map(str, source))}]"

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
            with self._in_words(arguments):
                build(**arguments)

    def value(self, arguments: dict[str, Any]) -> Tensor:
        """The loss of these arguments.

        Raises:
            ValueError: Their shapes do not fit, or no number comes out; says what each is.
        """
        with self._in_words(arguments):
            value = self.loss(**arguments)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"The term '{self.name}' ({self.title}) gives {shape_of(value)}: a loss is one number.")
        return value

    @contextmanager
    def _in_words(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except ValueError as error:  # the loss has said itself what it needs
            raise ValueError(f"The term '{self.name}' ({self.title}): {error}") from error
        except (RuntimeError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(unfit(self, arguments, error)) from error


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
            value = term.value(term.arguments(resolve))
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


def unfit(term: Term, arguments: Mapping[str, Any], error: Exception) -> str:
    """Why a loss could not be computed: what it was given, and what to do where the shapes differ."""
    given = [f"{key} {term.asked(key)} {shape_of(value)}" for key, value in arguments.items() if key in term.sources]
    shapes = [
        value.shape[1:] for value in arguments.values() if isinstance(value, Tensor) and value.is_floating_point()
    ]
    reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip(".")
    advice = f"Look at method.terms.{term.name}.inputs."
    if len(set(shapes)) > 1:
        advice = (
            f"They differ: name layers of one shape under method.terms.{term.name}.inputs, or add a projector, as the"
            " term fitnet has."
        )
    return f"The term '{term.name}' ({term.title}) does not take {', '.join(given)}: {reason}. {advice}"


def shape_of(value: Any, batch: int | None = None) -> str:
    """Readable shape of an argument, for the table printed at start.

    Args:
        value: Of any kind.
        batch: The size of a first axis that is called B.
    """
    if isinstance(value, Tensor):
        sizes = [str(size) for size in value.shape]
        return "×".join(["B", *sizes[1:]] if sizes and value.shape[0] == batch else sizes) or "scalar"
    if isinstance(value, list):
        return "[" + ", ".join(shape_of(v, batch) for v in value) + "]"
    if isinstance(value, nn.Module):
        return type(value).__name__
    return repr(value) if not isinstance(value, torch.device) else str(value)
