"""The data module for images and features: owns splits, order, batches and augmentation for every source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, Source, take
from kd_lightning.data.base import Batch, SplitDataModule
from kd_lightning.data.counter import fold_text
from kd_lightning.data.images.augment import Augmentation, Op, check_ops
from kd_lightning.data.images.facts import check_facts, check_statistics, find_facts, measure
from kd_lightning.data.images.preprocess import Size, as_size, normalise, to_float
from kd_lightning.data.loader import EpochLoader, Signals, SplitDataset
from kd_lightning.tasks.registry import find_task

SMALL = 2**30
"""Bytes of a set that a GPU keeps unasked: CIFAR takes 0.2 GiB."""


class KDDataModule(SplitDataModule):
    """Images or features for teacher and student.

    A batch is a dictionary:

    - ``image``: (B, C, H, W) or (B, D) float32, augmented and normalised. It is raw until
      :meth:`on_after_batch_transfer`, which Lightning calls; elsewhere use :meth:`ready`.
    - ``target``: (B,) int64, -100 where a sample has no class; values float32, nan where it has none.
    - ``index``: (B,) int64, the position of the sample *within its split*, so 0..num_samples-1 while training: the
      row of a memory bank, and with the split's fingerprint the key of a cache.
    - while training also ``view`` (int), which chose the augmentation, ``raw``, the batch before it, and what
      ``signals`` gives.

    Args:
        source: Reads the arrays.
        task: A task whose targets the source gives, by name or dotted path.
        root: Folder of the data, for configurations that pass it on to the source; of no effect here.
        name: Name for reports; None for that of the source.
        augment: Ops for training images, in order; normalisation follows by itself.
        strong: Ops of the strong view that some methods ask :meth:`views` for.
        num_classes: Checked against the data; None to take what is found. May exceed the classes found where the
            source has no class names.
        channels: The same for channels (width, of feature vectors).
        image_size: The same for height and width, one number where they are equal.
        mean: Mean a channel, of images in [0, 1]; None: published, or else measured on the training split.
        std: Standard deviation, as ``mean``.
        on_device: Whether all samples lie on the device, so that a batch is taken there and only its positions travel;
            ``auto``: on a GPU, where they take at most 1 GiB.

    The other arguments and the attributes are those of :class:`SplitDataModule`.
    """

    def __init__(
        self,
        source: Source,
        *,
        task: str = "classification",
        root: str | None = None,
        name: str | None = None,
        augment: Sequence[Op] = (),
        strong: Sequence[Op] = (),
        batch_size: int = 64,
        eval_batch_size: int = 256,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        split_seed: int = 0,
        split_file: str | None = None,
        seed: int = 0,
        views: int | str | None = None,
        num_workers: int | None = None,
        num_classes: int | None = None,
        channels: int | None = None,
        image_size: int | Size | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        on_device: bool | str = "auto",
        select: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            name=name or type(source).__name__.lower(),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            split_file=split_file,
            seed=seed,
            views=views,
            num_workers=num_workers,
            select=select,
        )
        if not isinstance(source, Source):
            raise ValueError(f"data.source must have load(), got {type(source).__name__}.")
        if bad := [op for op in (*augment, *strong) if not callable(op)]:
            raise ValueError(f"data.augment and data.strong must list ops with a _target_, got {bad[0]!r}.")
        if on_device not in (True, False, "auto"):
            raise ValueError(f"data.on_device must be true, false or auto, got {on_device!r}.")
        self.task, self.source, self.root, self.on_device = find_task(task), source, root, on_device
        self.num_classes, self.channels, self.image_size = num_classes, channels, image_size
        self.weak = Augmentation(augment, fold_text(seed, "weak"))
        self.strong = Augmentation(strong, fold_text(seed, "strong"))
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)
        self.decode_size: int | None = None
        self._arrays: Arrays | None = None
        self._statistics_on: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._pool_on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    # ---- data and split

    def prepare(self) -> None:
        """Read, split and measure; then num_classes, channels, image_size, num_samples, class_names, mean, std and
        fingerprint are known. Calling it again does nothing.

        Raises:
            FileNotFoundError: The data is not there.
            ValueError: The data is damaged, or does not fit the configuration.
        """
        if self._arrays is not None:
            return
        arrays = self.source.load()
        self._describe(arrays)
        split = self._set_split(arrays)
        self._measure(arrays, split.train)
        self._arrays = arrays
        self.fingerprint, self.decode_size = arrays.fingerprint, arrays.decode_size
        self._tell(arrays)

    @property
    def arrays(self) -> Arrays:
        """All samples."""
        self.prepare()
        assert self._arrays is not None
        return self._arrays

    def targets(self, split: str = "train") -> Tensor:
        """Targets of a split by ``index``, (n,) of the task's kind."""
        return self.arrays.targets[self.split[split]]

    @property
    def facts(self) -> dict[str, Any]:
        """``num_classes``, ``channels`` and ``image_size``."""
        self.prepare()
        return {"num_classes": self.num_classes, "channels": self.channels, "image_size": self.image_size}

    @property
    def one_view(self) -> bool:
        """Whether a sample looks the same in every view."""
        return not self.weak.ops

    @property
    def view_key(self) -> Any:
        """The operations and their seed."""
        ops = [repr(op) if dataclasses.is_dataclass(op) else type(op).__qualname__ for op in self.weak.ops]
        return [ops, self.weak.seed] if ops else None

    @property
    def kind(self) -> str:
        """``images`` or ``features``."""
        self.prepare()
        return "features" if self.image_size is None else "images"

    def shown(self, split: str) -> dict[int, Any]:
        """Raw pictures, (C, H, W)."""
        if self.kind == "features":
            return {}
        return dict(enumerate(self.read(split, torch.arange(len(self.split[split])))))

    def read(self, split: str, index: Tensor) -> Tensor:
        """Raw inputs of a split by ``index``, (n, C, H, W) uint8 or (n, D) float32."""
        return take(self.arrays.inputs, self.split[split][index.cpu()])

    def _describe(self, arrays: Arrays) -> None:
        """Find out classes, channels and size, and compare with the configuration."""
        if arrays.kind is not self.target:
            raise ValueError(f"data.task={self.task} needs {self.task.target}, but {self.name} has {arrays.kind.name}.")
        facts = find_facts(arrays, self.num_classes)
        wanted = {"num_classes": self.num_classes, "channels": self.channels, "image_size": self.image_size}
        check_facts(facts, **wanted, name=self.name)  # type: ignore[arg-type]
        if facts.image_size is None and (self.weak.ops or self.strong.ops):
            raise ValueError(f"{self.name} holds feature vectors; augmentation is for images: set data.augment=[].")
        if facts.image_size is not None:
            for key, ops in (("augment", self.weak.ops), ("strong", self.strong.ops)):
                check_ops(ops, facts.channels, *as_size(facts.image_size), key)
        self.num_classes, self.channels, self.image_size = facts.num_classes, facts.channels, facts.image_size
        self.class_names = facts.class_names

    def _measure(self, arrays: Arrays, positions: Tensor) -> None:
        """Mean and standard deviation: as configured, as published, or of the training split."""
        if (self.mean is None) != (self.std is None):
            raise ValueError("Give both data.mean and data.std, or neither.")
        if self.mean is None or self.std is None:
            published = arrays.mean is not None and arrays.std is not None
            self.mean, self.std = (arrays.mean, arrays.std) if published else measure(arrays.inputs, positions)
        check_statistics(self.mean or (), self.std or (), self.channels or 0)

    def _dataset(self, split: str, signals: Signals | None) -> SplitDataset:
        return SplitDataset(self.arrays.inputs, self.arrays.targets, self.split[split], signals)

    def _relabel(self, positions: Tensor, labels: Tensor) -> None:
        targets = self.arrays.targets.clone()
        targets[positions] = labels.to(targets)
        self._arrays = replace(self.arrays, targets=targets)
        self._pool_on.clear()

    def loader(self, split: str, *, train: bool = False, whole: bool = False) -> EpochLoader:
        """Batches of a split, as the base class says; a Trainer's hold positions where the set lies on its device."""
        loader = super().loader(split, train=train, whole=whole)
        loader.dataset.resident = not whole and self._is_resident()  # type: ignore[attr-defined]
        return loader

    def _is_resident(self) -> bool:
        """Whether a Trainer takes batches from a copy of the set on its device."""
        if self.trainer is None or self.on_device is False:
            return False
        inputs = self.arrays.inputs
        if not isinstance(inputs, Tensor):
            if self.on_device is True:
                raise ValueError(f"{self.name} is read from files and cannot lie on a device: set data.on_device=auto.")
            return False
        return self.on_device is True or (self.trainer.strategy.root_device.type != "cpu" and inputs.nbytes <= SMALL)

    # ---- batches on the device

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Lightning's hook, on the device: augment (training batches only) and normalise ``image``."""
        if "position" in batch:
            batch = self._take(batch)
        if "view" not in batch:
            return {**batch, "image": self.normalise(to_float(batch["image"]))}
        batch = {**batch, "raw": batch["image"]}
        return {**batch, "image": self.views(batch, [batch["view"]])[0]}

    def _take(self, batch: Batch) -> Batch:
        """A batch from the copy of the set on its device, which is made at the first."""
        position = batch["position"]
        if position.device not in self._pool_on:
            arrays = self.arrays
            assert isinstance(arrays.inputs, Tensor)
            self._pool_on[position.device] = (arrays.inputs.to(position.device), arrays.targets.to(position.device))
        inputs, targets = self._pool_on[position.device]
        rest = {key: value for key, value in batch.items() if key != "position"}
        return {"image": take(inputs, position), "target": targets[position], **rest}

    def views(self, batch: Batch, views: Sequence[int], *, strong: bool = False) -> list[Tensor]:
        """Other looks at a training batch, augmented and normalised, each like ``image``.

        Args:
            batch: Has ``raw`` and ``index``.
            views: Names of the looks; ``batch["view"]`` is the one that ``image`` shows. A sample looks the same
                under the same name, in any batch.
            strong: With the ops of ``data.strong``.
        """
        augmentation = self.strong if strong else self.weak
        if strong and not augmentation.ops:
            raise ValueError("A method asks for strong views, but data.strong is empty; list its ops there.")
        if "raw" not in batch:
            raise ValueError("Only training batches have other views: this one has no 'raw'.")
        raw = to_float(batch["raw"])
        return [self.normalise(augmentation(raw, batch["index"], view)) for view in views]

    def normalise(self, inputs: Tensor) -> Tensor:
        """Zero mean and unit deviation a channel; (B, C, ...) float32."""
        return normalise(inputs, *self._statistics(inputs.device))

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation on a device, copied there once."""
        if device not in self._statistics_on:
            self.prepare()
            self._statistics_on[device] = (
                torch.tensor(self.mean, device=device),
                torch.tensor(self.std, device=device),
            )
        return self._statistics_on[device]

    def preprocessing(self) -> dict[str, Any]:
        """What a picture goes through, as JSON values, for ``apply_preprocessing`` and for deployment."""
        self.prepare()
        size = self.image_size
        return {
            "mean": list(self.mean or ()),
            "std": list(self.std or ()),
            "image_size": size if size is None or isinstance(size, int) else list(size),
            "channels": self.channels,
            "decode_size": self.decode_size,
            "class_names": list(self.class_names),
        }
