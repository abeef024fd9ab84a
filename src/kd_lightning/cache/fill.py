"""Filling a store: the frozen net runs once over what is missing."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.cache.shards import DamagedShardError, open_shard, remove_leftovers, write_shard
from kd_lightning.cache.store import Place, Signal, Store
from kd_lightning.data.sampler import Draw

log = logging.getLogger(__name__)


class NotStorableError(ValueError):
    """Values that cannot be stored as they are."""


Forward = Callable[[dict[str, Any]], Mapping[str, Tensor]]
Replay = Callable[[Iterable[Draw]], Iterable[dict[str, Any]]]
_REPORT_SECONDS = 30.0


def fill(
    store: Store, missing: Iterable[Place], forward: Forward, replay: Replay, batch_size: int, key: str = "teacher"
) -> None:
    """Write these shards. Complete ones stay if it is stopped; several processes may do it at once and share the work.

    Args:
        store: Where.
        missing: Shards that are absent or damaged.
        forward: Raw batch -> values by signal name, each (B, ...).
        replay: Draws -> raw batches with ``index`` and ``view``, in this order.
        batch_size: Samples in a batch.
        key: Where the role is set, for messages.

    Raises:
        NotStorableError: A value is too large for the type it is stored as, or its shape is not the expected one.
    """
    missing = list(missing)
    for place in missing:
        _remove_if_damaged(store, place, key)
    store.folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(store.folder)
    _write_facts(store)
    filling = _Filling(store, missing, batch_size, key)
    for batch in replay(filling.draws()):
        filling.add(batch["view"], batch["index"], forward(batch))


def _remove_if_damaged(store: Store, place: Place, key: str) -> None:
    try:  # looked at again: another process may have mended it
        open_shard(store.path(place), store.identity(place))
    except FileNotFoundError:
        pass
    except DamagedShardError as error:
        log.warning(f"{key} cache: {error}; it is written anew.")
        store.path(place).unlink(missing_ok=True)


def _write_facts(store: Store) -> None:
    path = store.folder / "store.json"
    if not path.is_file():
        part = Path(f"{path}.{os.getpid()}.part")
        part.write_text(json.dumps({"samples": store.samples, **store.facts}, indent=2, sort_keys=True) + "\n")
        os.replace(part, path)


class _Filling:
    """Which rows are wanted, and the shards that are being put together."""

    def __init__(self, store: Store, missing: list[Place], batch_size: int, key: str) -> None:
        self.store, self.batch_size, self.key = store, batch_size, key
        block = max(place.signal.shard_rows for place in missing)
        self.units: dict[tuple[int, int], list[Place]] = {}
        for place in missing:
            self.units.setdefault((place.view, place.start // block * block), []).append(place)
        self.wanted: dict[int, list[Place]] = {}
        self.buffers: dict[Place, Tensor] = {}
        self.filled: dict[Place, int] = {}
        self.started = self.reported = time.perf_counter()

    def draws(self) -> Iterator[Draw]:
        """Batches that hold wanted rows. Each process has an order of its own, and leaves out what others wrote."""
        units = list(self.units.items())
        random.Random(os.urandom(8)).shuffle(units)
        for done, ((view, _), places) in enumerate(units):
            self._report(done, len(units))
            wanted = [place for place in places if not self.store.path(place).is_file()]
            self.wanted.setdefault(view, []).extend(wanted)
            spans = sorted({(place.start, place.start + self.store.rows_of(place)) for place in wanted})
            yield from (Draw(list(range(*span)), view) for span in _batches(spans, self.batch_size))

    def add(self, view: int, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Put the rows of a batch, whose samples follow each other, where they belong."""
        first, last = int(index[0]), int(index[-1]) + 1
        for place in list(self.wanted[view]):
            low, high = max(first, place.start), min(last, place.start + self.store.rows_of(place))
            if low >= high:
                continue
            if place not in self.buffers:
                shape = (self.store.rows_of(place), *place.signal.shape)
                self.buffers[place], self.filled[place] = torch.empty(shape, dtype=place.signal.stored), 0
            rows = as_stored(values[place.signal.name][low - first : high - first], place.signal, self.key)
            self.buffers[place][low - place.start : high - place.start] = rows
            self.filled[place] += high - low
            if self.filled[place] == self.store.rows_of(place):
                write_shard(self.store.path(place), self.buffers.pop(place), self.store.identity(place))
                self.wanted[view].remove(place)

    def _report(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done and now - self.reported > _REPORT_SECONDS:
            self.reported = now
            left = (now - self.started) / done * (total - done)
            log.info(f"{self.key} cache: {done} of {total} parts written, about {left:.0f} s left")


def _batches(spans: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``size`` that cover the spans, each row once."""
    joined: list[list[int]] = []
    for start, stop in spans:
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    for start, stop in joined:
        for low in range(start, stop, size):
            yield low, min(low + size, stop)


def as_stored(values: Tensor, signal: Signal, key: str = "teacher") -> Tensor:
    """Values in the type that they are stored as, on the CPU.

    Raises:
        NotStorableError: A finite value becomes infinite; or the rows have another shape than those before.
    """
    if tuple(values.shape[1:]) != signal.shape:
        raise NotStorableError(
            f"'{signal.name}' gives rows of shape {tuple(values.shape[1:])} here and {signal.shape} before; what is"
            " stored must have one shape"
        )
    rows = values.detach().to(signal.stored)
    if rows.is_floating_point() and bool((rows.isinf() & values.isfinite()).any()):
        raise NotStorableError(
            f"'{signal.name}' reaches {values.abs().max().item():.3g}, too large for"
            f" {str(signal.stored).removeprefix('torch.')} ({key}.cache_dtype=bf16 or fp32 holds it)"
        )
    return rows.cpu()
