"""Data sets of the Hugging Face hub, or in a local folder that `datasets` knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.data.split import NAMES, split_called
from kd_lightning.data.text.sources._columns import Columns, check_splits
from kd_lightning.data.text.texts import Texts

log = logging.getLogger(__name__)


class HubText:
    """A data set by name.

    Args:
        name: Name on the hub, a folder with data files, or one written by ``save_to_disk``.
        config: Its configuration, such as ``sst2`` of GLUE.
        splits: Which of its splits are train, validation and test; a null leaves one to be split off here. None: those
            of these names, as far as they are there.
        revision: Version on the hub.
        class_names: Names of the classes; None for those that the data set itself gives.
        missing: A label, or a list of labels, that says that a row has none; where the data set names its classes, or
            all of a split that is not ``train`` have it, -1 always does.
        columns: ``text``, ``pair``, ``label``, ``words``, ``tags``, ``prompt``: names of columns, see
            :class:`Columns`.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        splits: Mapping[str, str | None] | None = None,
        revision: str | None = None,
        class_names: Sequence[str] | None = None,
        missing: Any = None,
        **columns: str | None,
    ) -> None:
        self.missing = missing
        self.name, self.config, self.splits, self.revision = name, config, splits, revision
        self.class_names = None if class_names is None else tuple(class_names)
        self.columns = Columns(**columns)

    def load(self) -> Texts:
        """Read the data set, downloading it the first time.

        Raises:
            FileNotFoundError: It is not there, or there is no hub.
            ValueError: It has not the configuration, the splits or the columns.
        """
        from datasets import concatenate_datasets

        found = self._read()
        wanted = self._wanted(list(found))
        parts = {split: found[name] for split, name in wanted.items()}
        for split, part in parts.items():
            self.columns.check(part.column_names, f"{self.name} ({wanted[split]})")
        used = sorted(set(self.columns.named.values()))
        whole = concatenate_datasets([part.select_columns(used) for part in parts.values()])
        names = self.class_names or _class_names(whole.features, self.columns)
        sizes = {split: len(part) for split, part in parts.items()}
        table = {name: whole[name] for name in used}
        label = self.columns.label
        if label is not None:
            table[label] = without_hidden(table[label], sizes, _class_names(whole.features, self.columns) is not None)
        return self.columns.texts(table, sizes, self.name, self.missing, class_names=names)

    def _read(self) -> Mapping[str, Any]:
        from datasets import Dataset, load_dataset, load_from_disk

        folder = Path(self.name)
        saved = any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
        try:
            options = {} if saved else {"name": self.config, "revision": self.revision}
            found: Any = (load_from_disk if saved else load_dataset)(self.name, **options)
        except (OSError, ConnectionError) as error:  # DatasetNotFoundError is a FileNotFoundError
            raise FileNotFoundError(
                f"data.source.name={self.name}: no such data set on this machine, and none was got from the Hugging"
                " Face hub. Check the name and the connection (HF_HUB_OFFLINE forbids it; private ones need"
                f" `hf auth login`), or use local files: data=text_files. ({str(error).splitlines()[0]})"
            ) from error
        except ValueError as error:  # no such configuration, or one must be named
            raise ValueError(f"data.source.name={self.name}, data.source.config={self.config}: {error}") from error
        return {"train": found} if isinstance(found, Dataset) else found

    def _wanted(self, found: list[str]) -> dict[str, str]:
        """Which of the splits is what."""
        wanted: dict[str, str] = {}
        if self.splits is None:
            for name in sorted(found, key=lambda name: name not in NAMES):
                split = "train" if len(found) == 1 else split_called(name)
                if split is not None and split not in wanted:
                    wanted[split] = name
            if others := [name for name in found if name not in wanted.values()]:
                log.info("%s: left out: the splits %s; data.source.splits names them", self.name, ", ".join(others))
            wanted = {split: wanted[split] for split in NAMES if split in wanted}
        else:
            wanted = {split: name for split, name in self.splits.items() if name is not None}
        check_splits(wanted)
        if missing := [name for name in wanted.values() if name not in found]:
            raise ValueError(
                f"{self.name} has no split '{missing[0]}'; it has {', '.join(found)}. Set data.source.splits."
            )
        return wanted


def without_hidden(labels: Iterable[Any], sizes: Mapping[str, int], named: bool) -> list[Any]:
    """Labels with None where the library's -1 says that there is none: in a column of named classes, and in a split
    that is nothing else, as the hidden labels of a test are.

    Args:
        labels: Of all splits, one after the other.
        sizes: Samples of each split, in that order.
        named: Whether the classes have names, so that labels are their numbers.
    """
    found, start = list(labels), 0
    for split, size in sizes.items():
        part = found[start : start + size]
        if named or (split != "train" and all(label in (-1, None) for label in part)):
            found[start : start + size] = [None if label == -1 else label for label in part]
        start += size
    return found


def _class_names(features: Mapping[str, Any], columns: Columns) -> tuple[str, ...] | None:
    """Names that the data set gives to its labels or tags."""
    feature = features.get(columns.tags or columns.label or "")
    feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    return None if names is None else tuple(names)
