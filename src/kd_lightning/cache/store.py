"""The store of a frozen role's signals: rows by view and sample, in shards, below a folder named by a hash.

    <cache_dir>/<key>/store.json                                   what the key is made of
    <cache_dir>/<key>/<signal>/<view>/<first row>.safetensors

The key is the sha256 of all that decides the numbers, so that another teacher, augmentation or precision is another
folder. Each signal lies by itself: one more is added without the others. Nothing has to be locked: shards are whole
or absent, and two that write the same one write the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.cache.shards import open_shard
from kd_lightning.config.renamed import with_canonical_names

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 16384
# Views whose files stay mapped: workers that fetch ahead are in the next epoch already.
_OPEN_VIEWS = 2


@dataclass(frozen=True)
class Signal:
    """How one signal is stored.

    Attributes:
        name: Name in the store.
        shape: Shape of one sample's row.
        stored: Type on disk.
        served: Type that the live teacher gives.
    """

    name: str
    shape: tuple[int, ...]
    stored: torch.dtype
    served: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return max(1, math.prod(self.shape)) * self.stored.itemsize

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard: a power of two, so that those of different signals nest."""
        return 1 << max(0, min(SHARD_ROWS, SHARD_BYTES // self.row_bytes).bit_length() - 1)

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return re.sub(r"[^\w.@-]", "@", self.name)


@dataclass(frozen=True)
class Place:
    """One shard of a store: the signal, the view and the first row."""

    signal: Signal
    view: int
    start: int


class Store:
    """Signals of one frozen net on one training split.

    Args:
        root: Folder of all stores.
        facts: All that decides the numbers, as JSON values.
        samples: Size of the split.
    """

    def __init__(self, root: str | Path, facts: Mapping[str, Any], samples: int) -> None:
        text = json.dumps(with_canonical_names(facts), sort_keys=True, default=str)
        self.facts: dict[str, Any] = json.loads(text)
        self.samples = samples
        self.key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.folder = Path(root) / self.key
        self._open: dict[int, dict[tuple[str, int], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the files itself

    def path(self, place: Place) -> Path:
        """The file of a shard."""
        return self.folder / place.signal.folder / f"{place.view:05d}" / f"{place.start:09d}.safetensors"

    def identity(self, place: Place) -> dict[str, str]:
        """What the file says it is."""
        signal = place.signal
        shape = "x".join(map(str, (self.rows_of(place), *signal.shape)))
        kind = f"{signal.stored} {shape}".removeprefix("torch.")
        return {
            "store": self.key,
            "signal": signal.name,
            "view": str(place.view),
            "start": str(place.start),
            "rows": kind,
        }

    def rows_of(self, place: Place) -> int:
        """Rows of a shard; the last one may be shorter."""
        return min(place.signal.shard_rows, self.samples - place.start)

    def places(self, signals: Iterable[Signal], views: int) -> Iterator[Place]:
        """Every shard of these signals in the first ``views`` views."""
        for signal in signals:
            for view in range(views):
                for start in range(0, self.samples, signal.shard_rows):
                    yield Place(signal, view, start)

    def size(self, signals: Iterable[Signal], views: int) -> int:
        """Bytes of the whole."""
        return sum(signal.row_bytes for signal in signals) * self.samples * views

    def faults(self, signals: Sequence[Signal], views: int) -> dict[Place, str]:
        """The shards that are absent or damaged, and why; every other one has been verified."""

        def fault(place: Place) -> str | None:
            try:
                open_shard(self.path(place), self.identity(place))
            except (FileNotFoundError, ValueError) as error:
                return str(error)
            return None

        places = list(self.places(signals, views))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
            return {p: why for p, why in zip(places, pool.map(fault, places), strict=True) if why is not None}

    def rows(self, signal: Signal, view: int, index: Tensor) -> Tensor:
        """Rows of a signal, (B, ...) as stored.

        Args:
            signal: Which one.
            view: Which view.
            index: Samples, (B,) int64 on the CPU.

        Raises:
            FileNotFoundError: The view is not stored.
            DamagedShardError: A file is damaged.
        """
        step = signal.shard_rows
        if self.samples <= step:
            return self._shard(Place(signal, view, 0)).index_select(0, index)
        out = torch.empty((len(index), *signal.shape), dtype=signal.stored)
        shard = index // step
        for number in sorted(set(shard.tolist())):
            where = (shard == number).nonzero().squeeze(1)
            out[where] = self._shard(Place(signal, view, number * step)).index_select(0, index[where] - number * step)
        return out

    def _shard(self, place: Place) -> Tensor:
        opened = self._open.setdefault(place.view, {})
        key = (place.signal.name, place.start)
        if key not in opened:
            opened[key] = open_shard(self.path(place), self.identity(place))
            while len(self._open) > _OPEN_VIEWS:
                self._open.pop(next(view for view in self._open if view != place.view))
        return opened[key]


class StoredSignals:
    """What is stored of a role, as further entries of a training batch: ``{"<role>/<signal>": rows}``.

    Args:
        store: Where.
        signals: Name of the signal in the role -> how it is stored.
        role: Name of the role.
        one_view: Samples look the same in every view, and only the first is stored.
    """

    def __init__(self, store: Store, signals: Mapping[str, Signal], role: str, one_view: bool = False) -> None:
        self.store, self.signals, self.role, self.one_view = store, dict(signals), role, one_view

    def __call__(self, index: Tensor, view: int) -> dict[str, Tensor]:
        """Rows of the samples ``index`` (B,) int64 in a view."""
        view = 0 if self.one_view else view
        return {entry(self.role, name): self.store.rows(s, view, index) for name, s in self.signals.items()}


class SignalsOfAll:
    """What is stored of several roles.

    Args:
        roles: Of each of them.
    """

    def __init__(self, roles: Sequence[StoredSignals]) -> None:
        self.roles = tuple(roles)

    def __call__(self, index: Tensor, view: int) -> dict[str, Tensor]:
        """Rows of the samples ``index`` (B,) int64 in a view."""
        return {name: rows for one in self.roles for name, rows in one(index, view).items()}


def entry(role: str, signal: str) -> str:
    """Key of a stored signal in a batch."""
    return f"{role}/{signal}"
