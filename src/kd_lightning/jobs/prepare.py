"""``job=prepare``: decode the images of a data set once and store them for streaming, for ``data=prepared``."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import torch
from hydra.utils import instantiate

from kd_lightning.config.command import Command
from kd_lightning.config.schema import Config
from kd_lightning.data.images.encoding import Encoding
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.prepare import Conversion, Estimate
from kd_lightning.data.images.sources.prepared import FACTS, Prepared, need_litdata
from kd_lightning.files.lock import exclusive
from kd_lightning.measures.format import rough_size, rough_time

log = logging.getLogger("kd_lightning")


def run(command: Command, folder: Path) -> None:
    """Convert, or go on with a conversion that was stopped.

    Raises:
        ValueError: These data cannot be stored as images, do not fit, or the folder holds something else.
    """
    settings = command.settings
    prepare, target = settings.prepare, Path(settings.prepare.folder).expanduser()
    encoding = Encoding(prepare.format, prepare.quality)
    if prepare.chunk_mb <= 0 or (prepare.num_workers is not None and prepare.num_workers < 1):
        raise ValueError("prepare.chunk_mb must be above 0, and prepare.num_workers at least 1 or null.")
    need_litdata()
    conversion = _conversion(settings, target, encoding)
    with exclusive(target.parent / f".{target.name}.lock", waiting=f"Another process is writing {target}: waiting."):
        _convert(conversion, settings)


def _conversion(settings: Config, target: Path, encoding: Encoding) -> Conversion:
    """The data, with its images left in their files."""
    node, source = settings.data, settings.data.get("source", {})
    if "in_memory_gb" in source:
        node = {**node, "source": {**source, "in_memory_gb": 0}}
    data: KDDataModule = instantiate(node)
    if isinstance(data.source, Prepared):
        raise ValueError(f"{settings.data['root']} is prepared already; set data to what is to be converted.")
    arrays = data.source.load()
    kind, shape = getattr(arrays.inputs, "dtype", torch.uint8), arrays.inputs.shape
    if kind != torch.uint8 or len(shape) != 4:
        raise ValueError(
            f"job=prepare stores images of uint8; data={settings.data['name']} gives {kind} {tuple(shape)}."
        )
    if encoding.format != "raw" and shape[1] not in (1, 3):
        raise ValueError(f"Images with {shape[1]} channels can only be stored with prepare.format=raw.")
    statistics = {"mean": data.mean or arrays.mean, "std": data.std or arrays.std}
    return Conversion(arrays, target, encoding, float(settings.prepare.chunk_mb), statistics)


def _convert(conversion: Conversion, settings: Config) -> None:
    workers = settings.prepare.num_workers or os.cpu_count() or 1
    estimate, known = None, conversion.recall()
    if not known:
        estimate = conversion.estimate()
        _check_room(conversion, settings, estimate, conversion.samples)
        conversion.settle(estimate)
    numbers = conversion.missing(workers) if known else list(range(conversion.chunk_count))
    if known and not numbers and (conversion.folder / FACTS).is_file():
        conversion.finish()  # what lies beside the chunks is small, and may be damaged
        log.info(f"prepare: {_what(conversion)} in {conversion.folder} are complete and checked")
    else:
        _write(conversion, settings, estimate, numbers, workers)
    log.info(f"Train on them with: data=prepared data.root={conversion.folder}")


def _write(
    conversion: Conversion, settings: Config, estimate: Estimate | None, numbers: list[int], workers: int
) -> None:
    """The missing chunks, and what belongs to them."""
    count = conversion.count(numbers)
    if estimate is None:
        log.info(f"prepare: going on; {conversion.samples - count:,} images are there, {count:,} are missing")
        estimate = conversion.estimate()
        _check_room(conversion, settings, estimate, count)
    seconds = estimate.image_seconds * count / min(workers, os.cpu_count() or 1, max(1, len(numbers)))
    log.info(
        f"prepare: writing {_what(conversion, count)} to {conversion.folder}:"
        f" {rough_size(estimate.image_bytes * count)}, about {rough_time(seconds)}"
    )
    started = time.perf_counter()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not settings.trainer.enable_progress_bar) as bar:
        task = bar.add_task("prepare", total=count)
        conversion.write(numbers, workers, lambda done: bar.advance(task, done))
    conversion.finish()
    log.info(
        f"prepare: written in {rough_time(time.perf_counter() - started)}, {rough_size(conversion.stored_bytes())}"
    )


def _what(conversion: Conversion, count: int | None = None) -> str:
    shape = "×".join(map(str, conversion.arrays.inputs.shape[1:]))
    return f"{conversion.samples if count is None else count:,} images ({shape}, {conversion.encoding})"


def _check_room(conversion: Conversion, settings: Config, estimate: Estimate, missing: int) -> None:
    """Refuse what exceeds the limit or the disk."""
    size, limit = estimate.image_bytes * conversion.samples, settings.prepare.max_gb * 1e9
    parent = conversion.folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if size <= limit and estimate.image_bytes * missing <= free:
        return
    why = (
        f"prepare.max_gb={settings.prepare.max_gb:g}"
        if size > limit
        else f"the {rough_size(free)} that are free in {parent}"
    )
    raise ValueError(
        f"{_what(conversion)} would take {rough_size(size)}, more than {why}. Raise prepare.max_gb or make room, or"
        " store less: a smaller data.image_size, prepare.format=jpeg, a lower prepare.quality."
    )
