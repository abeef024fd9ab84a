"""Images of a Hugging Face data set: by name, or from files on this machine."""

from __future__ import annotations

import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.facts import chunks
from kd_lightning.data.images.preprocess import Size, as_size, decode, open_picture
from kd_lightning.data.split import split_called
from kd_lightning.data.targets import IGNORE, class_names, class_numbers, without

log = logging.getLogger(__name__)


class HFRows:
    """Images in the Arrow files of a data set, decoded when they are asked for.

    Args:
        images: A ``datasets.Dataset`` with the column ``column`` as encoded bytes or paths.
        column: Its name.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width after the centre crop.
        decode_size: Shorter side before it, see :func:`kd_lightning.data.images.preprocess.decode`.
    """

    def __init__(self, images: Any, column: str, channels: int, size: Size, decode_size: int | None) -> None:
        self.images, self.column = images, column
        self.channels, self.size, self.decode_size = channels, size, decode_size
        self.shape: tuple[int, ...] = (len(images), channels, *size)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, positions: Tensor) -> Tensor:
        """Images at ``positions`` (B,), as (B, C, H, W) uint8.

        Raises:
            ValueError: Some are broken; all of these are named.
        """
        images, broken = [], []
        stored = self.images[positions.tolist()][self.column] if len(positions) else []
        for position, entry in zip(positions.tolist(), stored, strict=True):
            try:
                source = entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"])
                with open_picture(source) as image:
                    images.append(decode(image, self.channels, self.size, self.decode_size))
            except Exception as error:  # every PIL plugin fails in its own way on a damaged file
                broken.append(f"  row {position} ({type(error).__name__}: {error})")
        if broken:
            raise ValueError("\n".join([f"{len(broken)} broken images in column '{self.column}':", *broken]))
        return torch.stack(images) if images else torch.empty((0, *self.shape[1:]), dtype=torch.uint8)


class HFImages:
    """A data set of the library ``datasets`` with a column of images and a column of classes.

    Its splits ``train``, ``validation`` and ``test`` are the official ones; a set with one split is the framework's to
    split. A split without classes (all -1) is left out, and so are splits of other names; both are said.

    Args:
        root: Name on the hub, a parquet file, or a folder: of parquet files, or written by ``save_to_disk``.
        config: The configuration, where a set on the hub has several.
        image: Column of the images.
        label: Column of the classes: whole numbers, or names.
        missing: A class, or a list of classes, that says that an image has none, as nothing does; where the data set
            names its classes, or a split that is not ``train`` has nothing else, -1 always does.
        image_size: Height and width in pixels.
        decode_size: Shorter side before the centre crop, such as 256 for 224; None for no more than is cut away.
        channels: 3 (RGB) or 1 (grey).
        in_memory_gb: Limit in gigabytes (10^9 bytes); a larger set is decoded in the loader's workers.
    """

    def __init__(
        self,
        root: str,
        config: str | None = None,
        image: str = "image",
        label: str = "label",
        missing: Any = None,
        image_size: int | Size = 224,
        decode_size: int | None = None,
        channels: int = 3,
        in_memory_gb: float = 4.0,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"hf_images: channels must be 1 or 3, got {channels}.")
        if decode_size is not None and decode_size < min(as_size(image_size)):
            raise ValueError(f"hf_images: decode_size={decode_size} is smaller than image_size={image_size}.")
        self.root, self.config, self.image, self.label = root, config, image, label
        self.size, self.decode_size, self.channels = as_size(image_size), decode_size, channels
        self.in_memory_gb, self.missing = in_memory_gb, missing

    def load(self) -> Arrays:
        """Read the classes, and the images where they fit into memory.

        Raises:
            FileNotFoundError: No such file, folder or data set.
            ValueError: A column is missing or of another kind, or images are broken.
        """
        from datasets import Image, concatenate_datasets

        splits = self._splits()
        for split in splits.values():
            self._check_columns(split)
        names = self._class_names(splits)
        targets = {name: self._targets(name, split, names) for name, split in splits.items()}
        for name in [name for name, found in targets.items() if name != "train" and bool((found == IGNORE).all())]:
            log.info("%s: the split %s has no classes and is left out", self.root, name)
            del splits[name], targets[name]
        joined = concatenate_datasets([split.select_columns([self.image]) for split in splits.values()])
        joined = joined.cast_column(self.image, Image(decode=False))
        rows = HFRows(joined, self.image, self.channels, self.size, self.decode_size)
        ends = dict(zip(targets, torch.tensor([len(t) for t in targets.values()]).cumsum(0).tolist(), strict=True))
        held = {name: torch.arange(end - len(targets[name]), end) for name, end in ends.items() if name != "train"}
        classes = torch.cat(list(targets.values()))
        # The library's own fingerprint: of the files and what was done to them. Hashing all images would read them all.
        sources = [str(split._fingerprint) for split in splits.values()]
        settings = f"{self.image} {rows.shape} {self.decode_size}"
        inputs = self._decoded(rows) if torch.Size(rows.shape).numel() <= self.in_memory_gb * 1e9 else rows
        content = inputs if isinstance(inputs, Tensor) else " ".join(sources)
        return Arrays(
            inputs,
            classes,
            fingerprint(content, classes, *(names or ()), settings),
            names,
            test=held.get("test"),
            validation=held.get("validation"),
            decode_size=self.decode_size,
        )

    def _splits(self) -> dict[str, Any]:
        """The splits by our names, train first."""
        found = self._open()
        known: dict[str, Any] = {}
        for name, split in found.items():
            ours = "train" if len(found) == 1 else split_called(str(name))
            if ours is None or ours in known:
                log.info("%s: the split %s is left out (train, validation and test are used)", self.root, name)
            elif len(split):
                known[ours] = split
        if "train" not in known:
            raise ValueError(f"{self.root} has no split 'train' with samples; it has {', '.join(map(str, found))}.")
        return {name: known[name] for name in ("train", "validation", "test") if name in known}

    def _open(self) -> dict[str, Any]:
        from datasets import Dataset, load_dataset, load_from_disk

        path = Path(self.root).expanduser()
        if path.is_file():
            if path.suffix != ".parquet":
                raise ValueError(f"{path}: expected a parquet file, a folder, or a name on the hub.")
            return dict(load_dataset("parquet", data_files=str(path)))
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = load_from_disk(str(path))
            return {"train": saved} if isinstance(saved, Dataset) else dict(saved)
        try:
            return dict(load_dataset(str(path) if path.is_dir() else self.root, self.config))
        except (ConnectionError, FileNotFoundError) as error:
            if path.is_dir():
                raise FileNotFoundError(f"{path.absolute()} holds no files of a data set: {error}") from error
            raise FileNotFoundError(
                f"No file or folder {path.absolute()}, and no data set '{self.root}' on the hub that can be reached"
                f" from here ({error}). Set data.root to one of them."
            ) from error

    def _check_columns(self, split: Any) -> None:
        for key, column in (("image", self.image), ("label", self.label)):
            if column not in split.column_names:
                close = get_close_matches(column, split.column_names, n=1, cutoff=0.4)
                hint = f" Did you mean data.source.{key}={close[0]}?" if close else f" Set data.source.{key}."
                raise ValueError(f"{self.root} has no column '{column}', but {', '.join(split.column_names)}.{hint}")

    def _class_names(self, splits: dict[str, Any]) -> tuple[str, ...] | None:
        from datasets import ClassLabel

        feature = splits["train"].features[self.label]
        if isinstance(feature, ClassLabel):
            return tuple(feature.names)
        if getattr(feature, "dtype", None) in ("string", "large_string"):
            return class_names(without(splits["train"].unique(self.label), self.missing), None)
        return None

    def _targets(self, name: str, split: Any, names: tuple[str, ...] | None) -> Tensor:
        from datasets import ClassLabel

        values = without(split.with_format(None)[self.label][:], self.missing)
        numbered = isinstance(split.features[self.label], ClassLabel)
        if numbered or (name != "train" and all(value in (-1, None) for value in values)):
            values = [None if value == -1 else value for value in values]
        if names is not None:
            return torch.tensor(class_numbers(values, names, names if numbered else None), dtype=torch.int64)
        if wrong := [value for value in values if value is not None and type(value) is not int]:
            raise ValueError(
                f"{self.root}: column '{self.label}' holds {wrong[0]!r}; expected whole numbers or names of classes."
            )
        return torch.tensor([IGNORE if value is None else value for value in values], dtype=torch.int64)

    def _decoded(self, rows: HFRows) -> Tensor:
        kept = torch.empty(rows.shape, dtype=torch.uint8)

        def fill(positions: Tensor) -> None:
            kept[positions[0] : positions[-1] + 1] = rows.read(positions)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # PIL decodes without Python's lock
            list(pool.map(fill, chunks(torch.arange(len(rows)), 64)))
        return kept
