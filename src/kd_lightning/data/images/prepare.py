"""Writing a data set as litdata chunks: any number of threads, each chunk whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, take
from kd_lightning.data.images.encoding import Encoding
from kd_lightning.data.images.facts import chunks
from kd_lightning.data.images.sources.prepared import FACTS, INDEX, PLAN, ROWS, VERSION, content
from kd_lightning.files.runs import digest, write_json

_BLOCK = 16  # images that are decoded before a thread looks whether it is to stop
_TRIED = 32  # images that size and time are estimated on

Progress = Callable[[int], None]
"""Told how many more images are done."""


@dataclass
class Estimate:
    """What the whole would take, from some images spread over the set.

    Attributes:
        image_bytes: Of one stored image, on average.
        image_seconds: To decode and store one, on one thread.
    """

    image_bytes: float
    image_seconds: float


@dataclass
class Conversion:
    """One data set on its way into a folder.

    Args:
        arrays: The data; images as uint8, in memory or read from files.
        folder: Where to.
        encoding: How an image is stored.
        chunk_mb: About the size of a chunk, in megabytes.
        statistics: ``mean`` and ``std`` to be kept with the data, or None each.
    """

    arrays: Arrays
    folder: Path
    encoding: Encoding
    chunk_mb: float
    statistics: Mapping[str, Sequence[float] | None]
    chunk_samples: int = 0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def samples(self) -> int:
        """Images of the whole."""
        return len(self.arrays.targets)

    @property
    def identity(self) -> str:
        """Hash of all that decides what is written."""
        meaning = [str(self.encoding), self.chunk_mb, self.statistics, VERSION]
        return digest([self.arrays.fingerprint, *meaning])

    # ---- plan

    def estimate(self) -> Estimate:
        """Decode and store some images, without writing them."""
        tried = torch.linspace(0, self.samples - 1, min(self.samples, _TRIED)).long()
        self.encoding.encode(take(self.arrays.inputs, tried[:1])[0])  # the first one also imports what it needs
        started = time.perf_counter()
        size = sum(len(self.encoding.encode(pixels)) for pixels in take(self.arrays.inputs, tried))
        return Estimate(size / len(tried), (time.perf_counter() - started) / len(tried))

    def recall(self) -> bool:
        """Whether the folder holds this conversion, finished or not; what was settled for it is taken over.

        Raises:
            ValueError: It holds something else.
        """
        visible = self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir())
        if not visible:
            return False
        plan = _read_json(self.folder / PLAN)
        if plan.get("identity") != self.identity:
            what = "other data, or the same with other settings" if plan else "something else"
            raise ValueError(
                f"{self.folder.absolute()} holds {what} (files that changed count as other data). Remove it, or set"
                " prepare.folder to another one."
            )
        self.chunk_samples = int(plan["chunk_samples"])
        return True

    def settle(self, estimate: Estimate) -> None:
        """Decide how many images a chunk has, and write that down for a later continuation."""
        self.chunk_samples = max(1, min(self.samples, int(self.chunk_mb * 1e6 / max(1.0, estimate.image_bytes))))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / PLAN, {"identity": self.identity, "chunk_samples": self.chunk_samples})

    @property
    def chunk_count(self) -> int:
        """Chunks of the whole."""
        return -(-self.samples // self.chunk_samples)

    @property
    def _numbers(self) -> range:
        return range(self.chunk_count)

    def _positions(self, number: int) -> Tensor:
        start = number * self.chunk_samples
        return torch.arange(start, min(self.samples, start + self.chunk_samples))

    # ---- chunks

    def missing(self, workers: int) -> list[int]:
        """Chunks that are not there whole; all others were read and their checksums compared."""
        with ThreadPoolExecutor(workers) as pool:
            intact = list(pool.map(self._is_intact, self._numbers))
        return [number for number, good in zip(self._numbers, intact, strict=True) if not good]

    def count(self, numbers: Iterable[int]) -> int:
        """Images in these chunks."""
        return sum(len(self._positions(number)) for number in numbers)

    def write(self, numbers: Sequence[int], workers: int, progress: Progress) -> None:
        """Write these chunks; those that are whole stay if it is stopped.

        Raises:
            ValueError: Some images are broken.
        """
        (self.folder / FACTS).unlink(missing_ok=True)  # until all is in order again, nobody reads this
        for left in self.folder.glob(".*.part"):
            shutil.rmtree(left)
        pool = ThreadPoolExecutor(workers)  # decoding and encoding run without Python's lock
        try:
            for done in as_completed([pool.submit(self._write, number, progress) for number in numbers]):
                done.result()
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _write(self, number: int, progress: Progress) -> None:
        from litdata.streaming.writer import BinaryWriter

        positions = self._positions(number)
        partial = self.folder / f".{_name(number)}.part"
        writer = BinaryWriter(str(partial), chunk_size=len(positions), chunk_index=number)
        checksums = []
        for block in chunks(positions, _BLOCK):
            if self._stop.is_set():
                return
            for position, pixels in zip(block.tolist(), take(self.arrays.inputs, block), strict=True):
                data = self.encoding.encode(pixels)
                checksums.append(zlib.crc32(data))
                writer[position] = data
            progress(len(block))
        writer.done()
        (index,), (written,) = partial.glob(f"*{INDEX}"), partial.glob("*.bin")
        described = json.loads(index.read_text())
        (info,) = described["chunks"]
        target = self.folder / f"{_name(number)}.bin"
        record = {"info": {**info, "filename": target.name}, "config": described["config"], "crc32": checksums}
        record["file_crc32"] = _file_crc32(written)
        os.replace(written, target)
        write_json(target.with_suffix(".json"), record)
        shutil.rmtree(partial)

    def _is_intact(self, number: int) -> bool:
        path = self.folder / f"{_name(number)}.bin"
        record = _read_json(path.with_suffix(".json"))
        try:
            return (
                record["info"]["filename"] == path.name
                and len(record["crc32"]) == len(self._positions(number))
                and path.stat().st_size == record["info"]["chunk_bytes"]
                and _file_crc32(path) == record["file_crc32"]
            )
        except (KeyError, TypeError, OSError):
            return False

    def stored_bytes(self) -> int:
        """Of all chunks."""
        return sum((self.folder / f"{_name(number)}.bin").stat().st_size for number in self._numbers)

    # ---- the end

    def finish(self) -> None:
        """Write litdata's index, targets and splits, and at last the facts without which nobody reads the folder."""
        from safetensors.torch import save_file

        records = [_read_json(self.folder / f"{_name(number)}.json") for number in self._numbers]
        infos = [record["info"] for record in records]
        index = {"chunks": infos, "config": records[0]["config"], "updated_at": str(time.time())}
        write_json(self.folder / INDEX, index)
        arrays = self.arrays
        checksums = torch.tensor([crc for record in records for crc in record["crc32"]], dtype=torch.int64)
        rows = {"target": arrays.targets, "crc32": checksums, "test": arrays.test, "validation": arrays.validation}
        held = {name: value.contiguous() for name, value in rows.items() if value is not None}
        partial = self.folder / f".{ROWS}"
        save_file(held, partial)
        os.replace(partial, self.folder / ROWS)
        facts: dict[str, Any] = {
            "version": VERSION,
            "shape": list(arrays.inputs.shape),
            "format": self.encoding.format,
            "quality": self.encoding.quality,
            "chunk_samples": self.chunk_samples,
            "class_names": arrays.class_names and list(arrays.class_names),
            "decode_size": arrays.decode_size,
            **{key: value and list(value) for key, value in self.statistics.items()},
        }
        write_json(self.folder / FACTS, {**facts, "fingerprint": content(held, facts)})


def _name(number: int) -> str:
    return f"chunk-{number:06d}"


def _read_json(path: Path) -> dict[str, Any]:
    """Content of the file; empty where it is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file_crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
