"""A role whose signals come from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from kd_lightning.cache.store import Signal, entry
from kd_lightning.core.calls import Batch, Signals
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role


class CachedRole(Role):
    """A frozen role that finds its signals in the training batch, where the data module has put the stored rows.

    For terms it is what the live role is: the same names, shapes and types. Its net stays on the CPU, unless a term
    asks for one of its modules, and runs on batches that are not for training (no ``view``).

    Args:
        role: The live role.
        stored: Signal of the role -> how it is stored.
    """

    def __init__(self, role: Role, stored: Mapping[str, Signal]) -> None:
        super().__init__(role.name, role.net, role.call, role.aliases, False, role.precision, role.key)
        self.stored = dict(stored)
        self._references: list[Reference] = []
        self._measured: list[Reference] = []
        self._runs = False

    def listen(self, references: Iterable[Reference], evaluation: Iterable[Reference] = ()) -> None:
        """Note what is asked for; the taps are set if the net ever runs."""
        self._references, self._measured = list(references), list(evaluation)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> CachedRole:
        if self._runs or any(reference.flag == "module" for reference in self._references):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, batch: Batch) -> Signals:
        """The stored signals of a training batch; those of the net for any other.

        Raises:
            ValueError: A training batch without the stored rows.
        """
        if "view" not in batch:
            return self._live(batch)
        keys = {name: entry(self.name, name) for name in self.stored}
        absent = [key for key in keys.values() if key not in batch]
        if absent:
            raise ValueError(f"The training batch lacks the stored signals {', '.join(absent)} of the {self.name}.")
        return {name: batch[key].to(self.stored[name].served) for name, key in keys.items()}

    def _live(self, batch: Batch) -> Signals:
        if not self._runs:
            self._runs = True
            super().listen(self._references, self._measured)
            self._tell(self._evaluation_names or frozenset())  # it runs for evaluation only
        device = next((value.device for value in batch.values() if isinstance(value, torch.Tensor)), None)
        if device is not None and any(parameter.device != device for parameter in self.net.parameters()):
            self.to(device)
        return super().forward(batch)
