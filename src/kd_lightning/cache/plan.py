"""What one training would store of its teacher, and how that is made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.cache.fill import NotStorableError, as_stored, fill
from kd_lightning.cache.live import CacheError, LiveTeacher, facts
from kd_lightning.cache.store import Place, Signal, Store
from kd_lightning.cache.topk import TOPK
from kd_lightning.config.schema import Config
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.data.base import SplitDataModule

_STORED = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class Plan:
    """What is to be stored, and the teacher that makes it.

    Attributes:
        store: Where.
        signals: Signal of the role -> how it is stored.
        views: How many views.
        one_view: Samples look the same in every view, and only the first is stored.
        example: A raw training batch.
        values: What the teacher gives for it, by name in the store.
        teacher: Makes the signals.
        batch_size: Samples that it takes at once.
    """

    store: Store
    signals: dict[str, Signal]
    views: int
    one_view: bool
    example: dict[str, Any]
    values: dict[str, Tensor]
    teacher: LiveTeacher
    batch_size: int

    @property
    def what(self) -> str:
        """For people: what is stored."""
        shapes = ", ".join(f"{name} ({'×'.join(map(str, s.shape))})" for name, s in self.signals.items())
        views = "1 view" if self.views == 1 else f"{self.views} views"
        return f"{shapes}, {views} of {self.store.samples:,} samples,"

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self.store.size(self.signals.values(), self.views)

    @property
    def files(self) -> int:
        """Files of the whole."""
        return sum(1 for _ in self.store.places(self.signals.values(), self.views))

    def faults(self) -> dict[Place, str]:
        """Shards that are missing or damaged, and why."""
        return self.store.faults(list(self.signals.values()), self.views)

    def bytes_of(self, faults: Mapping[Place, str]) -> int:
        """Bytes of these shards."""
        return sum(self.store.rows_of(place) * place.signal.row_bytes for place in faults)

    def rows(self, faults: Mapping[Place, str]) -> int:
        """Samples that the teacher has to see for these shards, over all views."""
        rows: dict[tuple[int, str], int] = {}
        for place in faults:
            key = (place.view, place.signal.name)
            rows[key] = rows.get(key, 0) + self.store.rows_of(place)
        return sum(max(n for (v, _), n in rows.items() if v == view) for view in {view for view, _ in rows})

    def seconds(self, rows: int) -> float:
        """How long the teacher takes for them, measured on the example."""
        with self.teacher:  # it has run once, for the shapes
            start = time.perf_counter()
            values = self.teacher(self.example)
            for value in values.values():  # a GPU has answered when the values are here
                value.cpu()
            return (time.perf_counter() - start) * rows / len(self.example["index"])

    def stale(self, faults: Mapping[Place, str]) -> list[str]:
        """Signals that are stored, but are not what the teacher gives now: a change that the key does not see."""
        broken = {place.signal.name for place in faults}
        whole = {name: s for name, s in self.signals.items() if s.name not in broken and s.served.is_floating_point}
        if not whole:
            return []
        view = 0 if self.one_view else self.example["view"]
        stale = []
        for name, signal in whole.items():
            now = self.values[signal.name].float().cpu()
            then = self.store.rows(signal, view, self.example["index"]).float()
            # Coarse: another device and other kernels round differently, another net differs by far.
            finite = now.isfinite() & then.isfinite()
            scale = now[finite].abs().max() if finite.any() else torch.zeros(())
            if not torch.allclose(now[finite], then[finite], rtol=0, atol=max(0.1 * float(scale), 1e-3)):
                stale.append(name)
        return stale

    def fill(self, faults: Mapping[Place, str]) -> None:
        """Write these shards.

        Raises:
            CacheError: Some values cannot be stored, or some shards are still missing afterwards.
        """
        try:
            with self.teacher:
                fill(self.store, faults, self.teacher, self.teacher.data.replay, self.batch_size)
        except NotStorableError as error:
            raise CacheError(str(error), "Set that, or teacher.cache=off.") from None
        left = self.faults()
        if left:
            raise CacheError(f"writing failed: {next(iter(left.values()))}", "Try once more, or set teacher.cache=off.")


def make_plan(
    settings: Config,
    data: SplitDataModule,
    role: Role,
    teacher: nn.Module,
    asked: Sequence[Reference],
    example: Mapping[str, Any],
) -> Plan:
    """The plan for one training; the shapes of the signals are found out on the example.

    Args:
        settings: Of the training.
        data: Prepared data.
        role: The live teacher; its taps are set.
        teacher: Its net as it was loaded, before batch norms were folded.
        asked: What the terms ask of it.
        example: A training batch on the CPU.

    Raises:
        CacheError: Something cannot be stored.
    """
    _check(settings, data, asked)
    role.listen(asked)
    found = [role.places(reference) for reference in asked]
    names = list(dict.fromkeys(name for place in found for name in ([place] if isinstance(place, str) else place)))
    topk = settings.teacher.topk
    live = LiveTeacher(
        settings.trainer, data, role, {name: f"{name}@{topk}" if name in TOPK else name for name in names}
    )
    raw = {"image" if key == "raw" else key: value for key, value in example.items() if key != "image"}
    with live:
        values = live(raw)
    _check_lengths(data, values)
    signals = {
        n: _signal(n, s, values[s], len(raw["index"]), settings.teacher.cache_dtype) for n, s in live.names.items()
    }
    one_view = data.one_view
    epochs = planned_epochs(settings, batches_per_epoch(settings, data))
    views = 1 if one_view else min(epochs, data.num_views or epochs)
    store = Store(settings.teacher.cache_dir, facts(settings, data, live, teacher), data.num_samples)
    return Plan(store, signals, max(1, views), one_view, raw, values, live, data.eval_batch_size)


def _check(settings: Config, data: SplitDataModule, asked: Sequence[Reference]) -> None:
    """Refuse what cannot be stored."""
    if settings.method.rollout is not None:
        name = str(settings.method.rollout["_target_"]).rpartition(".")[2]
        raise CacheError(
            f"the method {settings.method.name} changes the batch ({name}), so that the teacher sees other inputs than"
            " those of the data",
            "Set teacher.cache=auto or off.",
        )
    classes = data.num_classes or 0
    topk = settings.teacher.topk
    if topk is not None and topk < classes and any(r.name == "logits" for r in asked):
        raise CacheError(
            f"the method {settings.method.name} asks for all teacher.logits, but teacher.topk={topk} keeps"
            f" {topk} of {classes}",
            "Set teacher.topk=null, or take a method for the top k (sparse_kl).",
        )


def _check_lengths(data: SplitDataModule, values: Mapping[str, Any]) -> None:
    """Refuse signals of tokens, (B, T, ...), where T differs from batch to batch."""
    tokens = [name for name, value in values.items() if isinstance(value, Tensor) and value.dim() > 2]
    if getattr(data, "pad", "max") == "longest" and tokens:
        raise CacheError(
            f"teacher.{tokens[0]} is as long as the longest text of a batch, and rows of a store have one length",
            "Set data.pad=max, or teacher.cache=off.",
        )


def _signal(name: str, stored: str, value: Any, batch: int, dtype: str) -> Signal:
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != batch:
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CacheError(
            f"teacher.{name} has no row for each of the {batch} samples of a batch, but {shape}",
            "Tap a place whose first dimension is the batch, or set teacher.cache=off.",
        )
    kind = _STORED[dtype] if value.is_floating_point() else torch.int32 if name == "topk_indices" else value.dtype
    signal = Signal(stored, tuple(value.shape[1:]), kind, value.dtype)
    try:
        as_stored(value, signal)
    except NotStorableError as error:
        raise CacheError(str(error), "Set that, or teacher.cache=off.") from None
    return signal


def batches_per_epoch(settings: Config, data: SplitDataModule) -> int:
    """Batches of an epoch over all processes, as far as the trainer goes."""
    batches = len(data.loader("train", train=True))
    limit = 1 if settings.trainer.fast_dev_run else settings.trainer.limit_train_batches
    if limit is None:
        return batches
    return min(batches, int(limit * batches) if isinstance(limit, float) else int(limit))


def planned_epochs(settings: Config, batches: int) -> int:
    """Epochs that a training may last.

    Raises:
        CacheError: There is no end.
    """
    steps, epochs = settings.trainer.max_steps, settings.trainer.max_epochs
    by_steps = -1 if steps < 0 else -(-steps * settings.trainer.accumulate_grad_batches // max(1, batches))
    given = [value for value in (epochs, by_steps) if value >= 0]
    if not given:
        raise CacheError("the training has no end to plan for", "Set trainer.max_epochs.")
    return 1 if settings.trainer.fast_dev_run else min(given)
