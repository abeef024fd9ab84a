"""The order of samples: a pure function of (seed, epoch), the same for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from kd_lightning.data.counter import fold_text, permutation, uniform

_STRETCH = 50
"""Batches whose samples are sorted by length together: enough to be alike, few enough to stay random."""


class Draw(NamedTuple):
    """Key of one batch of one process."""

    positions: list[int]
    """Positions in the split."""
    view: int | None
    """Which augmentation; None for as it is."""


def count_views(views: int | str | None) -> int | None:
    """Views a sample has, None for a new one in every epoch, which may also be written ``all``.

    Raises:
        ValueError: Anything else.
    """
    if views is None or views == "all":
        return None
    if not isinstance(views, int) or isinstance(views, bool) or views < 1:
        raise ValueError(f"data.views (teacher.views) must be a whole number from 1 on, or all, got {views!r}.")
    return views


class EpochBatchSampler(Sampler[Draw]):
    """Yields the batches of one epoch; for ``DataLoader(dataset, sampler=..., batch_size=None)``.

    Each process takes its slice of every global batch, so the union over the processes is the batch that one
    process would see, and every process has the same number of batches, none of them empty.

    Args:
        size: Number of samples.
        batch_size: Samples in a global batch, over all processes.
        seed: With the epoch, decides the order.
        shuffle: False: ascending, without augmentation (``view`` is None).
        drop_last: Leave out a last batch that is not full, unless it is the only one.
        rank: Number of this process.
        world: Number of processes.
        lengths: Lengths of the samples, (size,): batches of a shuffled epoch then hold samples of similar length.
        weights: How often a sample is drawn relative to the others, (size,): a shuffled epoch is then drawn with
            replacement. None: every sample once.
        views: Views a sample has; epoch ``e`` shows view ``e % views``. None: epoch ``e`` shows view ``e``.

    Raises:
        ValueError: ``batch_size`` cannot be shared evenly, or there are fewer samples than processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        views: int | None = None,
        lengths: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1}, got {rank}.")
        if batch_size % world:
            raise ValueError(
                f"batch_size={batch_size} is the global batch and cannot be shared evenly by {world} processes; "
                f"take a multiple of {world}, such as {-(-batch_size // world) * world}."
            )
        if size < world:
            raise ValueError(f"{size} samples are fewer than {world} processes; use fewer devices or more data.")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.shuffle, self.drop_last, self.rank, self.world = shuffle, drop_last, rank, world
        self.views, self.lengths, self.weights = views, lengths, weights
        self.epoch = 0
        self._skip = 0

    def _bounds(self) -> list[tuple[int, int]]:
        """Start and end of every global batch."""
        full, rest = divmod(self.size, self.batch_size)
        bounds = [(i * self.batch_size, (i + 1) * self.batch_size) for i in range(full)]
        if rest == 0 or (self.drop_last and full):
            return bounds
        if rest < self.world and full:  # too few for a sample each: they join the batch before
            return [*bounds[:-1], (bounds[-1][0], self.size)]
        return [*bounds, (full * self.batch_size, self.size)]

    def __len__(self) -> int:
        """Batches of a whole epoch, whatever :meth:`skip` leaves out."""
        full, rest = divmod(self.size, self.batch_size)
        dropped = rest == 0 or (self.drop_last and full) or (rest < self.world and full)
        return full + (0 if dropped else 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Start the next iteration, and only that one, after the first ``batches`` batches."""
        if batches < 0:
            raise ValueError(f"Cannot skip {batches} batches.")
        self._skip = batches

    def _order(self) -> Tensor:
        """The samples of a shuffled epoch, (size,) int64."""
        if self.weights is None:
            order = permutation(self.size, self.seed, self.epoch)
        else:
            draws = uniform(fold_text(self.seed, "weights"), self.epoch, torch.arange(self.size)).double()
            cumulated = self.weights.double().cumsum(0)
            order = torch.searchsorted(cumulated, draws * cumulated[-1], right=True).clamp(max=self.size - 1)
        return order if self.lengths is None else self._bucket(order, self.lengths)

    def _bucket(self, order: Tensor, lengths: Tensor) -> Tensor:
        """The order with samples of similar length in a batch: sorted within stretches of the order, then the
        batches shuffled. What a last batch that is not full holds stays as it is, so that who is left out does not
        depend on the length."""
        full = len(order) // self.batch_size
        ragged = order[full * self.batch_size :]
        stretch = _STRETCH * self.batch_size
        pieces = torch.split(order[: full * self.batch_size], stretch)
        sorted_pieces = (piece[lengths[piece].argsort(stable=True)] for piece in pieces)
        batches = [batch for piece in sorted_pieces for batch in torch.split(piece, self.batch_size)]
        shuffled = permutation(full, fold_text(self.seed, "buckets"), self.epoch).tolist()
        return torch.cat([*(batches[i] for i in shuffled), ragged])

    def __iter__(self) -> Iterator[Draw]:
        order = self._order() if self.shuffle else torch.arange(self.size)
        view = None
        if self.shuffle:
            view = self.epoch if self.views is None else self.epoch % self.views
        first, self._skip = self._skip, 0
        for start, end in self._bounds()[first:]:
            share = order[start:end].tensor_split(self.world)[self.rank]
            yield Draw(share.tolist(), view)
