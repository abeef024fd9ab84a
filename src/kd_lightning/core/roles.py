"""Roles: a net, how it is called and whether it learns. ``student`` and ``teacher`` are only names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.calls import Batch, Call, Signals
from kd_lightning.core.references import Reference
from kd_lightning.core.taps import Taps, find_module

Aliases = Mapping[str, str | tuple[str, ...]]


class Role(nn.Module):
    """One actor of a distillation.

    Args:
        name: What references call it.
        net: The network.
        call: How a batch becomes signals.
        aliases: Names for taps: ``{"embedding": "fc:in", "stages": ("layer1", "layer2")}``.
        trainable: A frozen role stays in eval mode and without gradient whatever is done to it.
        precision: Autocast dtype of a frozen role, or None for the trainer's own.
        key: Where it is set, for messages; None: under its name.
    """

    follows: str | None = None
    """The role whose moving average this one is."""

    def __init__(
        self,
        name: str,
        net: nn.Module,
        call: Call,
        aliases: Aliases | None = None,
        trainable: bool = True,
        precision: torch.dtype | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.key = key or name
        self.net = net
        self.call = call
        self.aliases = dict(aliases or {})
        self.trainable = trainable
        self.precision = precision
        self.taps = Taps(net, (), name)
        # Path of a head -> the head with what the net does after it, for terms that take it as a module.
        self.heads: dict[str, nn.Module] = {}
        self._found: dict[str, nn.Module] = {}
        self._training_names: frozenset[str] = frozenset()
        self._evaluation_names: frozenset[str] | None = None
        if not trainable:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> Role:
        """Train mode for a trainable role; a frozen one stays in eval, batch-norm statistics included."""
        super().train(mode and self.trainable)
        return self

    def places(self, reference: Reference) -> str | tuple[str, ...]:
        """The tap specs or the signal that a reference means; a tuple where it means several.

        Raises:
            ValueError: Where the name is neither a signal, nor an alias, nor a submodule.
        """
        if reference.name in self.call.provides:
            return reference.name
        places = self.aliases.get(reference.name, reference.name)
        if reference.name not in self.aliases:
            try:
                self._module(reference.name)
            except ValueError as error:
                known = ", ".join([*self.call.provides, *self.aliases])
                hint = "" if "." in reference.name else f". Or say where it is: {self.key}.taps.{reference.name}=[...]"
                raise ValueError(f"{error}. Signals and aliases of {self.name}: {known}{hint}") from None
        if reference.index is None:
            return places if isinstance(places, str) else tuple(places)
        if isinstance(places, str):
            raise ValueError(f"{reference}: '{reference.name}' of {self.name} is one tensor, not a list")
        if not -len(places) <= reference.index < len(places):
            raise ValueError(f"{reference}: {self.name} has {len(places)} of '{reference.name}'")
        return places[reference.index]

    def _module(self, spec: str) -> nn.Module:
        """The submodule of a tap, looked for once: this is asked in every step, and a search walks the whole net."""
        path = spec.partition(":")[0]
        if path not in self._found:
            self._found[path] = find_module(self.net, path, self.name)
        return self._found[path]

    def listen(self, references: Iterable[Reference], evaluation: Iterable[Reference] = ()) -> None:
        """Set the taps that these references need, and tell the call; replaces what was set before.

        Args:
            references: What every step asks for.
            evaluation: What validation and test ask for beside it; signals of the call are made only there.
        """
        specs: list[str] = []
        wanted: tuple[set[str], set[str]] = (set(), set())
        for asked, names in zip((references, evaluation), wanted, strict=True):
            for reference in asked:
                if reference.flag == "module":
                    continue
                places = self.places(reference)
                if reference.name in self.call.provides:
                    names.add(reference.name)
                else:
                    specs.extend([places] if isinstance(places, str) else places)
        self.taps.remove()
        self.taps = Taps(self.net, specs, self.name)
        # All taps must fire in every pass, so that the modules are named to the call in both cases.
        self._training_names = frozenset(wanted[0] | {spec.partition(":")[0] for spec in specs})
        self._evaluation_names = self._training_names | wanted[1]
        self._tell(self._evaluation_names, self.net)
        self._tell(self._training_names)

    def release(self) -> None:
        """Take the taps off the net, which others may use after this role."""
        self.taps.remove()

    def _tell(self, names: frozenset[str], *net: nn.Module) -> None:
        """Tell the call which signals are wanted, if it makes them on demand."""
        listen = getattr(self.call, "listen", None)
        if callable(listen):
            listen(names, *net)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the call also gives what only the evaluation asks for."""
        if self._evaluation_names is None or self._evaluation_names == self._training_names:
            yield
            return
        self._tell(self._evaluation_names)
        try:
            yield
        finally:
            self._tell(self._training_names)

    @contextmanager
    def asked(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, the call gives these signals, and nothing is captured."""
        with self.paused():
            self._tell(frozenset(names))
            try:
                yield
            finally:
                self._tell(self._training_names)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the net may run as often as it likes, for example to generate: nothing is captured.

        Hooks of a call are silent outside of the call anyway.
        """
        with self.taps.paused():
            yield

    def forward(self, batch: Batch) -> Signals:
        """Signals of the call and of the taps.

        Args:
            batch: The batch dictionary.
        """
        if self.trainable:
            return {**self.call(self.net, batch), **self.taps.take()}
        with torch.no_grad():
            if self.precision is None:
                return {**self.call(self.net, batch), **self.taps.take()}
            device = next(self.net.parameters()).device.type
            with torch.autocast(device, dtype=self.precision):
                return {**self.call(self.net, batch), **self.taps.take()}

    def pick(self, reference: Reference, signals: Signals) -> Any:
        """The value a reference means: a module, a tensor or a list of tensors.

        Raises:
            ValueError: An index that the signal does not have.
        """
        places = self.places(reference)
        if reference.flag == "module":
            paths = [places] if isinstance(places, str) else list(places)
            modules = [self.heads.get(path) or self._module(path) for path in paths]
            return modules[0] if isinstance(places, str) else modules
        if isinstance(places, tuple):
            values = [signals[place] for place in places]
            return [v.detach() for v in values] if reference.flag == "detach" else values
        value = signals[places]
        if reference.index is not None and reference.name in self.call.provides:
            if not isinstance(value, list):
                raise ValueError(f"{reference}: '{reference.name}' of {self.name} is one tensor, not a list")
            if not -len(value) <= reference.index < len(value):
                raise ValueError(f"{reference}: {self.name} has {len(value)} of '{reference.name}'")
            value = value[reference.index]
        if reference.flag != "detach":
            return value
        if isinstance(value, list):
            return [v.detach() for v in value]
        return value.detach() if isinstance(value, Tensor) else value


class Roles(nn.Module):
    """All roles of a run, by name.

    Frozen roles are moved with the module but are no submodules of it: so they are in no ``state_dict``, no optimiser,
    no gradient synchronisation and no ``train()``. A role that follows another is one: it is saved, and not optimised.
    """

    def __init__(self, roles: Iterable[Role]) -> None:
        super().__init__()
        roles = list(roles)
        self.trainable = nn.ModuleDict({role.name: role for role in roles if role.trainable})
        self.following = nn.ModuleDict({role.name: role for role in roles if role.follows is not None})
        # A tuple is invisible to nn.Module, which is the point.
        self._frozen = tuple(role for role in roles if not role.trainable and role.follows is None)
        if not self.trainable:
            raise ValueError("No role is trainable: there is nothing to learn.")

    @property
    def learner(self) -> Role:
        """The first role that learns."""
        role = next(iter(self.trainable.values()))
        assert isinstance(role, Role)
        return role

    @property
    def leaders(self) -> dict[str, str]:
        """Name of a role that follows another -> of that one."""
        return {name: str(role.follows) for name, role in self.by_name.items() if role.follows is not None}

    @property
    def by_name(self) -> dict[str, Role]:
        """Every role."""
        roles = {role.name: role for role in self._frozen}
        for role in (*self.following.values(), *self.trainable.values()):
            assert isinstance(role, Role)
            roles[role.name] = role
        return roles

    def release(self) -> None:
        """Take the taps off every net: a frozen one serves the next training too."""
        for role in self.by_name.values():
            role.release()

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Roles:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for role in self._frozen:
            role._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, batch: Batch, names: Iterable[str], evaluating: bool = False) -> dict[str, Signals]:
        """Signals of the named roles on one batch.

        Args:
            batch: The batch dictionary.
            names: Which roles.
            evaluating: Also make what only the evaluation asks for.
        """
        by_name = self.by_name
        if not evaluating:
            return {name: by_name[name](batch) for name in names}
        signals = {}
        for name in names:
            with by_name[name].evaluating():
                signals[name] = by_name[name](batch)
        return signals
