"""A frozen role as it runs in a step, on its own; and all that decides what it gives."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.config.identity import of_answers
from kd_lightning.config.values import plain
from kd_lightning.core.device import training_device
from kd_lightning.data.arrays import fingerprint

# Raised when the layout or the meaning of what is stored changes.
VERSION = 1
# Autocast of the trainer's precisions, under which a live role would run.
_AUTOCAST = {"32-true": None, "32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class CacheError(Exception):
    """Why signals cannot be stored or are not there; in auto mode the reason to stay live.

    Args:
        why: A clause that says what stands against it.
        remedy: A sentence that says what to do where the cache was demanded.
    """

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class LiveRole:
    """A frozen role as it would run in a step; as a context it is on its device.

    Args:
        own: The role, with its taps set.
        names: Signal of the role -> name in the store.

    Raises:
        CacheError: A precision under which nothing is stored.
    """

    def __init__(self, own: FrozenRole, names: dict[str, str]) -> None:
        trainer = own.settings.trainer
        if str(trainer.precision) not in _AUTOCAST:
            raise CacheError(
                f"trainer.precision={trainer.precision} converts the {own.name} itself, and what it gives then is not"
                " stored",
                f"Set {own.key}.cache=off, or a precision of {', '.join(_AUTOCAST)}.",
            )
        self.data, self.role, self.names = own.data, own.role, dict(names)
        self.device = training_device(trainer.accelerator, trainer.devices)
        self.channels_last: bool = trainer.channels_last
        self.autocast = _AUTOCAST[str(trainer.precision)]

    def __enter__(self) -> LiveRole:
        self.role.to(self.device)
        return self

    def __exit__(self, *error: object) -> None:
        self.role.to("cpu")

    def __call__(self, raw: dict[str, Any]) -> dict[str, Tensor]:
        """Values by name in the store, for a raw batch."""
        values = self.run(self.data.ready(raw, self.device))
        return {stored: values[name] for name, stored in self.names.items()}

    def run(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Signals on a batch that is ready and on the device."""
        if self.channels_last and "image" in batch and batch["image"].dim() == 4:
            self.role.net.to(memory_format=torch.channels_last)
            batch = {**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)}
        with self.precision():
            signals: dict[str, Any] = self.role(batch)
        return signals

    def precision(self) -> AbstractContextManager[Any]:
        """The trainer's autocast."""
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)


def facts(own: FrozenRole, live: LiveRole) -> dict[str, Any]:
    """All that decides the numbers, as JSON values: the key of a store is their hash.

    The student, its seed, its method and the order of the samples are not among them, so that all share one store.
    """
    data = own.data
    weights = [part for name, value in sorted(own.net.state_dict().items()) for part in (name, _hashable(value))]
    preprocessing = {key: value for key, value in data.preprocessing().items() if key != "class_names"}
    return {
        "version": VERSION,
        "weights": fingerprint(*weights),
        **of_answers(plain(own.serving)),
        "folded": live.role.net is not own.net,
        "precision": str(live.role.precision or live.autocast or torch.float32).removeprefix("torch."),
        "dtype": own.serving.cache_dtype,
        "preprocessing": preprocessing,
        "split": data.split.fingerprint,
        "views": [data.view_key, own.settings.data.get("augment")],
    }


def _hashable(value: Any) -> Tensor | str:
    return value if isinstance(value, Tensor) else repr(value)
