"""The teacher as it runs in a step, on its own; and all that decides what it gives."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.config.identity import of_answers
from kd_lightning.config.schema import Config, Trainer
from kd_lightning.config.values import plain
from kd_lightning.core.device import training_device
from kd_lightning.core.roles import Role
from kd_lightning.data.arrays import fingerprint
from kd_lightning.data.base import SplitDataModule

# Raised when the layout or the meaning of what is stored changes.
VERSION = 1
# Autocast of the trainer's precisions, under which a live teacher would run.
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


class LiveTeacher:
    """The teacher as it would run in a step; as a context it is on its device.

    Args:
        trainer: Its options in the training.
        data: Makes batches of raw ones.
        role: The live teacher, with its taps set.
        names: Signal of the role -> name in the store.

    Raises:
        CacheError: A precision under which nothing is stored.
    """

    def __init__(self, trainer: Trainer, data: SplitDataModule, role: Role, names: dict[str, str]) -> None:
        if str(trainer.precision) not in _AUTOCAST:
            raise CacheError(
                f"trainer.precision={trainer.precision} converts the teacher itself, and what it gives then is not"
                " stored",
                f"Set teacher.cache=off, or a precision of {', '.join(_AUTOCAST)}.",
            )
        self.data, self.role, self.names = data, role, dict(names)
        self.device = training_device(trainer.accelerator, trainer.devices)
        self.channels_last: bool = trainer.channels_last
        self.autocast = _AUTOCAST[str(trainer.precision)]

    def __enter__(self) -> LiveTeacher:
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


def facts(settings: Config, data: SplitDataModule, live: LiveTeacher, teacher: nn.Module) -> dict[str, Any]:
    """All that decides the numbers, as JSON values: the key of a store is their hash.

    The student, its seed, its method and the order of the samples are not among them, so that all share one store.
    """
    weights = [part for name, value in sorted(teacher.state_dict().items()) for part in (name, _hashable(value))]
    preprocessing = {key: value for key, value in data.preprocessing().items() if key != "class_names"}
    return {
        "version": VERSION,
        "weights": fingerprint(*weights),
        **of_answers(plain(settings)),
        "folded": live.role.net is not teacher,
        "precision": str(live.role.precision or live.autocast or torch.float32).removeprefix("torch."),
        "dtype": settings.teacher.cache_dtype,
        "preprocessing": preprocessing,
        "split": data.split.fingerprint,
        "views": [data.view_key, settings.data.get("augment")],
    }


def _hashable(value: Any) -> Tensor | str:
    return value if isinstance(value, Tensor) else repr(value)
