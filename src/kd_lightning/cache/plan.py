"""What one training would store of a frozen role, and how that is made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.cache.fill import NotStorableError, as_stored, fill
from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.cache.live import CacheError, LiveRole, facts
from kd_lightning.cache.store import Place, Signal, Store
from kd_lightning.cache.topk import TOPK
from kd_lightning.config.schema import Config
from kd_lightning.core.references import Reference
from kd_lightning.data.base import SplitDataModule

_STORED = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class Plan:
    """What is to be stored, and the role that makes it.

    Attributes:
        store: Where.
        signals: Signal of the role -> how it is stored.
        views: How many views.
        one_view: Samples look the same in every view, and only the first is stored.
        example: A raw training batch.
        values: What the role gives for it, by name in the store.
        live: Makes the signals.
        batch_size: Samples that it takes at once.
    """

    store: Store
    signals: dict[str, Signal]
    views: int
    one_view: bool
    example: dict[str, Any]
    values: dict[str, Tensor]
    live: LiveRole
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
        """Samples that the role has to see for these shards, over all views."""
        rows: dict[tuple[int, str], int] = {}
        for place in faults:
            key = (place.view, place.signal.name)
            rows[key] = rows.get(key, 0) + self.store.rows_of(place)
        return sum(max(n for (v, _), n in rows.items() if v == view) for view in {view for view, _ in rows})

    def seconds(self, rows: int) -> float:
        """How long the role takes for them, measured on the example."""
        with self.live:  # it has run once, for the shapes
            start = time.perf_counter()
            values = self.live(self.example)
            for value in values.values():  # a GPU has answered when the values are here
                value.cpu()
            return (time.perf_counter() - start) * rows / len(self.example["index"])

    def stale(self, faults: Mapping[Place, str]) -> list[str]:
        """Signals that are stored, but are not what the role gives now: a change that the key does not see."""
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
            with self.live:
                fill(self.store, faults, self.live, self.live.data.replay, self.batch_size, self.live.role.key)
        except NotStorableError as error:
            raise CacheError(str(error), f"Set that, or {self.live.role.key}.cache=off.") from None
        left = self.faults()
        if left:
            why = f"writing failed: {next(iter(left.values()))}"
            raise CacheError(why, f"Try once more, or set {self.live.role.key}.cache=off.")


def make_plan(own: FrozenRole, asked: Sequence[Reference], example: Mapping[str, Any]) -> Plan:
    """The plan for one training; the shapes of the signals are found out on the example.

    Args:
        own: The role; its taps are set.
        asked: What the terms ask of it.
        example: A training batch on the CPU.

    Raises:
        CacheError: Something cannot be stored.
    """
    settings, data, role = own.settings, own.data, own.role
    _check(own, asked)
    role.listen(asked)
    found = [role.places(reference) for reference in asked]
    names = list(dict.fromkeys(name for place in found for name in ([place] if isinstance(place, str) else place)))
    topk = own.serving.topk
    live = LiveRole(own, {name: f"{name}@{topk}" if name in TOPK else name for name in names})
    raw = {"image" if key == "raw" else key: value for key, value in example.items() if key != "image"}
    with live:
        values = live(raw)
    _check_lengths(own, values)
    signals = {
        name: _signal(own, name, stored, values[stored], len(raw["index"])) for name, stored in live.names.items()
    }
    one_view = data.one_view
    epochs = planned_epochs(settings, batches_per_epoch(settings, data))
    views = 1 if one_view else min(epochs, data.num_views or epochs)
    store = Store(own.serving.cache_dir, facts(own, live), data.num_samples)
    return Plan(store, signals, max(1, views), one_view, raw, values, live, data.eval_batch_size)


def _check(own: FrozenRole, asked: Sequence[Reference]) -> None:
    """Refuse what cannot be stored."""
    settings, key = own.settings, own.key
    if settings.method.rollout is not None:
        name = str(settings.method.rollout["_target_"]).rpartition(".")[2]
        raise CacheError(
            f"the method {settings.method.name} changes the batch ({name}), so that the {own.name} sees other inputs"
            " than those of the data",
            f"Set {key}.cache=auto or off.",
        )
    classes = own.data.num_classes or 0
    topk = own.serving.topk
    if topk is not None and topk < classes and any(r.name == "logits" for r in asked):
        raise CacheError(
            f"the method {settings.method.name} asks for all {own.name}.logits, but {key}.topk={topk} keeps"
            f" {topk} of {classes}",
            f"Set {key}.topk=null, or take a method for the top k (sparse_kl).",
        )


def _check_lengths(own: FrozenRole, values: Mapping[str, Any]) -> None:
    """Refuse signals of tokens, (B, T, ...), where T differs from batch to batch."""
    tokens = [name for name, value in values.items() if isinstance(value, Tensor) and value.dim() > 2]
    if getattr(own.data, "pad", "max") == "longest" and tokens:
        raise CacheError(
            f"{own.name}.{tokens[0]} is as long as the longest text of a batch, and rows of a store have one length",
            f"Set data.pad=max, or {own.key}.cache=off.",
        )


def _signal(own: FrozenRole, name: str, stored: str, value: Any, batch: int) -> Signal:
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != batch:
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CacheError(
            f"{own.name}.{name} has no row for each of the {batch} samples of a batch, but {shape}",
            f"Tap a place whose first dimension is the batch, or set {own.key}.cache=off.",
        )
    kind = torch.int32 if name == "topk_indices" else value.dtype
    if value.is_floating_point():
        kind = _STORED[own.serving.cache_dtype]
    signal = Signal(stored, tuple(value.shape[1:]), kind, value.dtype)
    try:
        as_stored(value, signal, own.key)
    except NotStorableError as error:
        raise CacheError(str(error), f"Set that, or {own.key}.cache=off.") from None
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
