"""Images that ``job=prepare`` stored for streaming: litdata chunks, read by index, larger than memory."""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.encoding import Encoding

# What lies in the folder. The first is written last: where it is absent, nothing is read.
FACTS = "prepared.json"
PLAN = "plan.json"
INDEX = "index.json"
ROWS = "samples.safetensors"
VERSION = 1


def need_litdata() -> None:
    """Import litdata.

    Raises:
        ModuleNotFoundError: It is not installed; says how to install it.
    """
    try:
        import litdata  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "litdata":
            raise
        raise ModuleNotFoundError(
            "Prepared data needs litdata: pip install 'kd-lightning[streaming]' (or pip install litdata)."
        ) from None


def content(rows: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Fingerprint of prepared data: targets, checksums of the images, official splits, and what they mean.

    Args:
        rows: ``target`` and ``crc32`` (N,) int64, and ``test`` and ``validation`` (n,) int64 where they are official.
        facts: ``shape``, ``class_names``, ``decode_size``, ``format``.
    """
    named = json.dumps([facts[key] for key in ("shape", "class_names", "decode_size", "format")])
    parts = [part for name in sorted(rows) for part in (name, rows[name])]
    return fingerprint(named, *parts)


@dataclass
class PreparedImages:
    """Images in litdata's chunks, decoded when they are asked for; every process opens the files itself.

    Args:
        folder: Holds the chunks and litdata's index.
        shape: (N, C, H, W).
        encoding: How an image is stored.
        chunk_samples: Images in every chunk but the last.
        checksums: crc32 of every stored image, (N,) int64.
    """

    folder: Path
    shape: tuple[int, ...]
    encoding: Encoding
    chunk_samples: int
    checksums: Tensor

    def __post_init__(self) -> None:
        self._stream: Any = None
        self._pid = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def _opened(self) -> Any:
        """litdata's dataset, this process's own: a worker must not share open files with whom it was forked from."""
        if self._stream is None or self._pid != os.getpid():
            from litdata import StreamingDataset

            logging.getLogger("litdata").setLevel(logging.WARNING)  # it would say how it opens files, in every worker
            # batch_decode=0: one image at a time, since the next one asked for lies elsewhere
            self._stream = StreamingDataset(str(self.folder.absolute()), batch_decode=0)
            self._pid = os.getpid()
        return self._stream

    def one(self, position: int) -> Tensor:
        """The image at ``position``, (C, H, W) uint8.

        Raises:
            ValueError: What is stored is damaged.
        """
        from litdata.streaming.sampler import ChunkedIndex

        chunk = position // self.chunk_samples  # said, since litdata would look for it in the list of all chunks
        try:
            data = self._opened()[ChunkedIndex(position, chunk)]
            if zlib.crc32(data) != int(self.checksums[position]):
                raise ValueError("its checksum is wrong")
            return self.encoding.decode(data, self.shape[1:])
        except Exception as error:  # litdata, torchvision and torch each have errors of their own
            raise ValueError(
                f"Image {position} in chunk {chunk} of {self.folder} is damaged ({error}). Run the job=prepare that"
                " made it again: it checks all chunks and writes the damaged ones anew."
            ) from error

    def read(self, positions: Tensor) -> Tensor:
        """Images at ``positions`` (B,), as (B, C, H, W) uint8.

        Raises:
            ValueError: One is damaged.
        """
        wanted = positions.tolist()
        images = {position: self.one(position) for position in sorted(set(wanted))}  # one chunk after the other
        if not wanted:
            return torch.empty((0, *self.shape[1:]), dtype=torch.uint8)
        return torch.stack([images[position] for position in wanted])


class Prepared:
    """A folder that ``job=prepare`` wrote.

    Samples, classes and official splits have the order of the data it was made of. The images are never all in memory:
    the workers of the loader read and decode them.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root).expanduser()

    def load(self) -> Arrays:
        """Read targets, splits and statistics; no image.

        Raises:
            FileNotFoundError: Nothing prepared is there, or it is not finished.
            ValueError: It is damaged.
        """
        need_litdata()
        facts = self._facts()
        rows = self._rows(facts)
        _check_chunks(self.root, facts)
        images = PreparedImages(
            self.root,
            tuple(facts["shape"]),
            Encoding(facts["format"], facts["quality"]),
            facts["chunk_samples"],
            rows["crc32"],
        )
        mean, std, names = (None if facts[k] is None else tuple(facts[k]) for k in ("mean", "std", "class_names"))
        return Arrays(
            images,
            rows["target"],
            facts["fingerprint"],
            names,
            test=rows.get("test"),
            validation=rows.get("validation"),
            mean=mean,
            std=std,
            decode_size=facts["decode_size"],
        )

    def _facts(self) -> dict[str, Any]:
        path = self.root / FACTS
        if not path.is_file():
            if (self.root / PLAN).is_file():
                raise FileNotFoundError(
                    f"The conversion into {self.root.absolute()} was not finished: run its job=prepare again, it goes"
                    " on where it stopped."
                )
            others = [p.parent.name for p in self.root.parent.glob(f"*/{FACTS}")]
            close = get_close_matches(self.root.name, others, n=1)
            hint = f" Did you mean {self.root.parent / close[0]}?" if close else ""
            raise FileNotFoundError(
                f"No prepared data in {self.root.absolute()}.{hint} Make it with job=prepare data=image_folder"
                " data.root=<pictures>, and set data.root to the folder that it names."
            )
        try:
            facts = json.loads(path.read_text())
            version = facts["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}. {_AGAIN}") from error
        if version != VERSION:
            raise ValueError(f"{path} has version {version}, this release reads {VERSION}. Prepare the data anew.")
        return dict(facts)

    def _rows(self, facts: dict[str, Any]) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.root / ROWS
        try:
            rows = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}. {_AGAIN}") from error
        if content(rows, facts) != facts["fingerprint"]:
            raise ValueError(f"{path} is damaged: it does not belong to {FACTS}. {_AGAIN}")
        return rows


_AGAIN = "Run the job=prepare that made it again: it mends what is damaged."


def _check_chunks(folder: Path, facts: dict[str, Any]) -> None:
    """All chunks are there, in their full length; their content is checked image by image when it is read."""
    try:
        chunks = json.loads((folder / INDEX).read_text())["chunks"]
        sizes = {chunk["filename"]: chunk["chunk_bytes"] for chunk in chunks}
        samples = [chunk["chunk_size"] for chunk in chunks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is missing or damaged: {error}. {_AGAIN}") from error
    if sum(samples) != facts["shape"][0] or set(samples[:-1]) - {facts["chunk_samples"]}:
        raise ValueError(f"{folder / INDEX} is damaged: it does not belong to {FACTS}. {_AGAIN}")
    found = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name in sizes}
    wrong = [name for name, size in sizes.items() if found.get(name) != size]
    if wrong:
        named = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"{folder}: missing or cut short: {named}. {_AGAIN}")
