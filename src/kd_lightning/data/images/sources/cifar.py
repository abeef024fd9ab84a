"""CIFAR-10 and CIFAR-100 from the official Python pickles (Krizhevsky, 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.sources._safe_pickle import Array, safe_loads
from kd_lightning.data.images.sources.archive import download, find_files

_HOST = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class _Layout:
    """How one of the two is laid out."""

    folder: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_LAYOUTS = {
    10: _Layout(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    100: _Layout(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        ("train",),
        "test",
        "meta",
        "fine_labels",
        "fine_label_names",
        100,
        # As in the code of the CRD and DKD papers, whose tables the recipes reproduce.
        (0.5071, 0.4867, 0.4408),
        (0.2675, 0.2565, 0.2761),
    ),
}


class CIFAR:
    """60,000 colour images of 32x32 pixels, 10,000 of them the official test split.

    Args:
        classes: 10 or 100: which of the two.
        root: The official folder, its parent, or where the ``.tar.gz`` lies.
        download: Fetch the archive into ``root`` where nothing is found.
    """

    def __init__(self, classes: int = 10, root: str = "data", download: bool = True) -> None:
        if classes not in _LAYOUTS:
            raise ValueError(f"cifar: classes must be 10 or 100, got {classes}.")
        self.layout, self.root, self.download = _LAYOUTS[classes], Path(root).expanduser(), download

    def load(self) -> Arrays:
        """Read all.

        Raises:
            FileNotFoundError: Nothing found and nothing fetched, or files are missing.
            ValueError: A file is truncated, foreign or unsafe; it is named.
        """
        layout = self.layout
        files = self._files()
        parts = [self._batch(name, files[name]) for name in (*layout.train, layout.test)]
        images = torch.cat([part[0] for part in parts])
        targets = torch.cat([part[1] for part in parts])
        test = torch.arange(len(images) - len(parts[-1][0]), len(images))
        names = self._names(files[layout.meta])
        print_of_content = fingerprint(images, targets, *names)
        return Arrays(images, targets, print_of_content, names, test=test, mean=layout.mean, std=layout.std)

    def _files(self) -> dict[str, bytes]:
        layout = self.layout
        wanted = (*layout.train, layout.test, layout.meta)
        files = find_files(self.root, layout.folder, layout.archive, wanted)
        reason = "data.source.download is false"
        if files is None and self.download:
            try:
                download(_HOST + layout.archive, layout.md5, self.root / layout.archive)
                files = find_files(self.root, layout.folder, layout.archive, wanted)
            except (OSError, HTTPException) as error:
                reason = f"the download failed ({error})"
        if files is None:
            raise FileNotFoundError(
                f"No CIFAR-{layout.num_classes} in {self.root.absolute()}, and {reason}. Put the folder "
                f"{layout.folder} or the file {layout.archive} (from {_HOST}cifar.html) there, or set "
                "data.root=/folder/that/has/it or the environment variable KD_DATA."
            )
        return files

    def _batch(self, name: str, data: bytes) -> tuple[Tensor, Tensor]:
        """Images (n, 3, 32, 32) uint8 and targets (n,) int64 of one file."""
        layout = self.layout
        try:
            content = safe_loads(data)
            array, labels = _get(content, "data"), _get(content, layout.labels)
            if not isinstance(array, Array):
                raise ValueError("its 'data' is not an array")
            images = array.tensor()
            if images.ndim != 2 or images.shape[1] != 3 * 32 * 32:
                raise ValueError(f"its 'data' has the shape {tuple(images.shape)}, not (n, 3072)")
            if not isinstance(labels, list) or not all(type(label) is int for label in labels):
                raise ValueError(f"its '{layout.labels}' are not a list of integers")
            if len(labels) != len(images):
                raise ValueError(f"it has {len(images)} images and {len(labels)} labels")
            if not all(0 <= label < layout.num_classes for label in labels):
                raise ValueError(f"a label is not in 0..{layout.num_classes - 1}")
        except ValueError as error:
            raise self._foreign(name, error) from error
        return images.reshape(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)

    def _names(self, data: bytes) -> tuple[str, ...]:
        layout = self.layout
        try:
            names = _get(safe_loads(data), layout.names)
            if not isinstance(names, list) or len(names) != layout.num_classes:
                raise ValueError(f"its '{layout.names}' are not {layout.num_classes} names")
            return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
        except ValueError as error:
            raise self._foreign(layout.meta, error) from error

    def _foreign(self, name: str, error: Exception) -> ValueError:
        return ValueError(
            f"{self.root}: the file '{name}' is truncated or not one of CIFAR-{self.layout.num_classes}: {error}. "
            f"Unpack {self.layout.archive} anew."
        )


def _get(content: dict[str, Any], key: str) -> Any:
    if key not in content:
        raise ValueError(f"it has no '{key}', only {', '.join(sorted(content)) or 'nothing'}")
    return content[key]
