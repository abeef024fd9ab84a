"""What data modules of every modality share: splits, order, loaders, the choice of training samples."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from kd_lightning.data.arrays import fingerprint
from kd_lightning.data.classes import tell_classes, unlabelled
from kd_lightning.data.counter import fold_text
from kd_lightning.data.loader import BatchDataset, EpochLoader, Signals
from kd_lightning.data.sampler import Draw, EpochBatchSampler, count_views
from kd_lightning.data.split import NAMES, Pool, Split, default_fractions, load_split, make_split
from kd_lightning.data.targets import Target, find_target
from kd_lightning.tasks.base import Task

Batch = dict[str, Any]

log = logging.getLogger(__name__)


class SplitDataModule(LightningDataModule):
    """Splits, order and batches; what a sample is, a subclass says.

    Args:
        name: Name for reports.
        batch_size: Samples in a training step over all processes.
        eval_batch_size: The same for evaluation.
        val_fraction: Share of the samples for validation, of those in no official split; None: the official
            validation split or else 0.1.
        test_fraction: The same for the test; None: the official test split or else 0.2.
        split_seed: Decides who is in which split.
        split_file: Take the split from this file or folder instead; see :meth:`save_split`.
        seed: Decides augmentation (masking), and order as long as ``order_seed`` is not set.
        views: Views a sample has: epoch ``e`` shows view ``e % views``; None or ``all``: view ``e``.
        num_workers: Processes that read; None: none for samples in memory, else one a core, at most 8.
        select: How the training samples are chosen with the help of a teacher; of no effect here, see
            ``kd_lightning.data.select``.

    Attributes:
        task: What an answer is.
        order_seed: Decides the order. Apart from ``seed``, so that trainings of several seeds see the same views and
            can share what is stored of their teacher.
        num_views: As ``views``; None for a new view in every epoch.
        signals: Gives more entries of a training batch, such as what is stored of a teacher; called by the workers.
        weights: How often a training sample is shown, relative to the others, (n,); None: all once an epoch.
    """

    task: Task
    order_seed: int
    num_views: int | None
    signals: Signals | None = None
    weights: Tensor | None = None
    num_samples: int
    num_classes: int | None
    vocab_size: int | None = None
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    channels: int | None = None
    image_size: Any = None

    def __init__(
        self,
        *,
        name: str,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        split_file: str | None = None,
        seed: int = 0,
        views: int | str | None = None,
        num_workers: int | None = None,
        select: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if eval_batch_size < 1:
            raise ValueError(f"eval_batch_size must be at least 1, got {eval_batch_size}.")
        self.name, self.seed = name, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.order_seed, self.num_views = seed, count_views(views)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed, self.split_file, self.num_workers = split_seed, split_file, num_workers
        self.select = select
        self.num_samples = 0
        self._split: Split | None = None
        self._made: Split | None = None  # as it was made, before training samples were chosen

    @property
    def target(self) -> Target:
        """The kind of target that its task has."""
        return find_target(self.task.target)

    # ---- what a subclass gives

    @abstractmethod
    def prepare(self) -> None:
        """Read and split; calling it again does nothing."""

    @abstractmethod
    def targets(self, split: str = "train") -> Tensor:
        """Targets of a split by ``index``."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What was found out about the data: configuration key -> JSON value."""

    @property
    @abstractmethod
    def one_view(self) -> bool:
        """Whether a sample looks the same in every view."""

    @property
    @abstractmethod
    def view_key(self) -> Any:
        """What decides how a sample looks in a view, as a JSON value; None where all views are alike."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What a sample is: ``images``, ``features`` or ``text``."""

    @abstractmethod
    def shown(self, split: str) -> dict[int, Any]:
        """What a person sees of the samples of a split, by ``index``: pictures or texts; empty for features."""

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """What a raw input goes through, as JSON values, for deployment."""

    @abstractmethod
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Lightning's hook, on the device."""

    @abstractmethod
    def _dataset(self, split: str, signals: Signals | None) -> BatchDataset:
        """One split, indexed by a :class:`Draw`."""

    @abstractmethod
    def _relabel(self, positions: Tensor, labels: Tensor) -> None:
        """Replace the targets of these samples of the pool."""

    def _lengths(self, split: str) -> Tensor | None:
        """Lengths of the samples of a split, where batches of similar length are wanted."""
        return None

    # ---- split

    def prepare_data(self) -> None:
        """Lightning's hook, on one process of a machine: fetches what is missing."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Lightning's hook, on every process."""
        self.prepare()

    @property
    def split(self) -> Split:
        """Who is in which split."""
        self.prepare()
        assert self._split is not None
        return self._split

    def save_split(self, folder: str | Path) -> Path:
        """Write the split as it was made into ``folder``, to be given back as ``split_file``; gives the path."""
        self.prepare()
        assert self._made is not None
        return self._made.save(folder)

    def choose(self, index: Tensor, weights: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Train on these samples only; ``index`` 0..n-1 names them from now on.

        Args:
            index: Which samples of the training split, ascending, (n,) int64.
            weights: How often each is shown relative to the others, (n,) above 0; None: once an epoch.
            labels: New targets of them, (n,); None to leave those of the data.

        Raises:
            ValueError: Nothing is chosen.
        """
        split = self.split
        if not len(index):
            raise ValueError("No training sample is left; loosen data.select.")
        train = split.train[index]
        told = [part for part in (weights, labels) if part is not None]
        mark = fingerprint(split.data_fingerprint, "chosen", *told) if told else split.data_fingerprint
        if labels is not None:
            self._relabel(train, labels)
        self._split = replace(split, train=train, data_fingerprint=mark)
        self.weights, self.num_samples = weights, len(train)

    def _set_split(self, pool: Pool) -> Split:
        """The split of a pool: from the file, or made anew."""
        if self.split_file:
            made = load_split(self.split_file, pool)
        else:
            val, test = default_fractions(pool, self.val_fraction, self.test_fraction, self.name or "The data")
            made = make_split(pool, val, test, self.split_seed)
        self._made = self._split = made
        self.num_samples = len(made.train)
        return made

    def _tell(self, pool: Pool, more: Sequence[str] = ()) -> None:
        """Say what there is: samples, classes, and what of it is without label or (``more``) of no use.

        Raises:
            ValueError: There is nothing to be told apart, or classes that nobody can learn.
        """
        assert self._split is not None
        sizes = [f"{len(self._split[split])} {split}" for split in NAMES]
        sizes += [f"{len(self.class_names)} classes"] if self.class_names else []
        sizes += [f"vocabulary {self.vocab_size}"] if self.vocab_size else []
        log.info("%s: %s, %s", self.name, ", ".join(sizes), self.task)
        notes = list(more)
        if self.target.column is not None:
            targets = {split: self.targets(split) for split in NAMES}
            if self.class_names:
                held = {"validation": pool.validation, "test": pool.test}
                official = [split for split, positions in held.items() if positions is not None]
                tell_classes(self.name or "The data", self.target, targets, self.class_names, official)
            notes.append(unlabelled(self.target, targets))
        if any(notes):
            log.info("%s: %s", self.name, "; ".join(note for note in notes if note))

    # ---- loaders

    def loader(self, split: str, *, train: bool = False, whole: bool = False) -> EpochLoader:
        """Batches of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.
            train: Shuffled, augmented batches of ``batch_size`` by epoch; False: all samples in order, as they are.
            whole: All samples on this process, also where a Trainer shares them among several.
        """
        kwargs = {} if whole else getattr(self.trainer, "distributed_sampler_kwargs", None) or {}
        world, rank = kwargs.get("num_replicas", 1), kwargs.get("rank", 0)
        sampler = EpochBatchSampler(
            len(self.split[split]),
            self.batch_size if train else max(world, self.eval_batch_size // world * world),
            fold_text(self.order_seed, "order"),
            shuffle=train,
            drop_last=train,
            rank=rank,
            world=world,
            views=self.num_views,
            lengths=self._lengths(split) if train else None,
            weights=self.weights if train else None,
        )
        done = self._done_batches if train else None
        return EpochLoader(self._dataset(split, self.signals), sampler, self.num_workers, done)

    def replay(self, draws: Iterable[Draw]) -> EpochLoader:
        """Training batches as they are named: positions and view."""
        self.prepare()
        return EpochLoader(self._dataset("train", None), draws, self.num_workers)

    def train_dataloader(self) -> EpochLoader:
        """Lightning's hook. A run that is resumed within an epoch goes on with the next batch of it."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> EpochLoader | list[Any]:
        """Lightning's hook; no loader where there is no validation split."""
        return self.loader("validation") if len(self.split.validation) else []

    def test_dataloader(self) -> EpochLoader | list[Any]:
        """Lightning's hook; no loader where there is no test split."""
        return self.loader("test") if len(self.split.test) else []

    def _done_batches(self) -> int:
        if self.trainer is None or not self.trainer.training:
            return 0
        # Asked before the first batch of an epoch: 0, unless the loop was restored within the epoch.
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def ready(self, batch: Batch, device: torch.device | str = "cpu") -> Batch:
        """A batch of a loader as a network takes it; for loops without a Trainer."""
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
        return self.on_after_batch_transfer(moved)
