"""Batches straight from arrays, without a collate of single samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_lightning.data.arrays import Inputs, take
from kd_lightning.data.sampler import Draw

Signals = Callable[[Tensor, int], dict[str, Tensor]]
"""More entries of a batch, for the samples ``index`` (B,) int64 in a view."""


class BatchDataset(Dataset[dict[str, Any]]):
    """One split; indexed by a :class:`Draw` it gives a whole batch."""

    in_memory: bool
    """Whether reading a batch is cheap, so that no worker process is worth its while."""

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        raise NotImplementedError


class SplitDataset(BatchDataset):
    """One split of a pool; indexed by a :class:`Draw` it gives a whole batch.

    Args:
        inputs: Pool of N samples.
        targets: (N,) int64.
        positions: Samples of this split, as positions in the pool, (n,) int64.
        signals: Gives more entries of a batch that has a view, or None.

    Attributes:
        resident: The pool lies on the device as well: a batch then holds its positions in the pool as ``position``,
            (B,) int64, in place of ``image`` and ``target``.
    """

    resident = False

    def __init__(self, inputs: Inputs, targets: Tensor, positions: Tensor, signals: Signals | None = None) -> None:
        self.inputs, self.targets, self.positions, self.signals = inputs, targets, positions, signals
        self.in_memory = isinstance(inputs, Tensor)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index = torch.tensor(draw.positions, dtype=torch.int64)
        pool = self.positions[index]
        batch: dict[str, Any] = {"index": index}
        if self.resident:
            batch["position"] = pool
        else:
            batch.update(image=take(self.inputs, pool), target=self.targets[pool])
        if draw.view is not None:
            batch["view"] = draw.view
            if self.signals is not None:
                batch.update(self.signals(index, draw.view))
        return batch


class EpochLoader(DataLoader[dict[str, Any]]):
    """A loader that starts with its first batch, not with ``iter``.

    Lightning calls ``iter`` before it knows the epoch of a resumed run and before ``set_epoch``; workers that
    start there would fetch batches of the wrong epoch.

    Args:
        dataset: The split.
        sampler: Its order; where batches may have to be skipped, an ``EpochBatchSampler``.
        num_workers: Processes that read; None: none for inputs in memory, else one a core, at most 8.
        done_batches: Asked at the first batch: how many batches of this epoch a resumed run has behind it.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        sampler: Iterable[Draw],
        num_workers: int | None = None,
        done_batches: Callable[[], int] | None = None,
    ) -> None:
        if num_workers is None:
            num_workers = 0 if dataset.in_memory else min(8, os.cpu_count() or 1)
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            # Its own: the global state must not move when a resumed run makes its iterator again.
            generator=torch.Generator(),
        )
        self.done_batches = done_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        if self.done_batches is not None and (done := self.done_batches()):
            self.sampler.skip(done)  # type: ignore[attr-defined]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the order follows from seed and epoch, the place from Lightning's count of batches.

        That the two methods exist tells Lightning that a run can be resumed within an epoch.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore, see :meth:`state_dict`."""
