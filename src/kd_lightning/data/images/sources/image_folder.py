"""Photographs in folders, one folder a class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from kd_lightning.data.arrays import Arrays, Inputs, fingerprint
from kd_lightning.data.images.preprocess import Size, as_size, decode, open_picture
from kd_lightning.data.images.sources.layout import EXTENSIONS, find_pictures, find_splits, subfolders

log = logging.getLogger(__name__)

_NAMED = 20  # so many broken files are named in full


class ImageFiles:
    """Images that are decoded when they are asked for.

    Args:
        paths: The files.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width after the centre crop.
        decode_size: Shorter side before it, see :func:`kd_lightning.data.images.preprocess.decode`.
    """

    def __init__(self, paths: Sequence[Path], channels: int, size: Size, decode_size: int | None) -> None:
        self.paths, self.channels, self.size, self.decode_size = list(paths), channels, size, decode_size
        self.shape: tuple[int, ...] = (len(self.paths), channels, *size)

    def __len__(self) -> int:
        return len(self.paths)

    def one(self, path: Path) -> Tensor | str:
        """The image, or what is wrong with it."""
        try:
            return decode(path, self.channels, self.size, self.decode_size)
        except Exception as error:  # every PIL plugin fails in its own way on a damaged file
            return f"{type(error).__name__}: {error}"

    def header(self, path: Path) -> str | None:
        """What is wrong with the first bytes of the file; None where nothing is."""
        try:
            with open_picture(path):
                return None
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def read(self, positions: Tensor) -> Tensor:
        """Images at ``positions`` (B,), as (B, C, H, W) uint8.

        Raises:
            ValueError: Some are broken; all of these are named.
        """
        paths = [self.paths[i] for i in positions.tolist()]
        images = [self.one(path) for path in paths]
        broken = {path: image for path, image in zip(paths, images, strict=True) if isinstance(image, str)}
        if broken:
            raise ValueError(_report(broken))
        return torch.stack([image for image in images if isinstance(image, Tensor)])


class ImageFolder:
    """One folder a class, below ``train/`` and optionally ``val/`` and ``test/``, or directly below ``root``.

    Splits may also be called ``Training``, ``VALID``, ``Testing`` and the like. Pictures are known by their ending, and
    files with none, or another, by their first bytes.

    Images are resized, cut at the centre and kept as uint8 in memory where that takes no more than ``in_memory_gb``.
    A larger set is decoded in the loader's workers; then only the first bytes of every file are checked at the start
    and a file that breaks later stops the run with its name, unless ``on_broken`` is ``skip``: leaving out broken
    files needs to know them, so all files are decoded once.

    Args:
        root: The folder.
        image_size: Height and width in pixels.
        decode_size: Shorter side before the centre crop, such as 256 for 224; None for no more than is cut away.
        channels: 3 (RGB) or 1 (grey).
        in_memory_gb: Limit in gigabytes (10^9 bytes).
        on_broken: ``error``, or ``skip`` to go on without broken images, with a warning that names them.
    """

    def __init__(
        self,
        root: str,
        image_size: int | Size = 224,
        decode_size: int | None = None,
        channels: int = 3,
        in_memory_gb: float = 4.0,
        on_broken: str = "error",
    ) -> None:
        if on_broken not in ("error", "skip"):
            raise ValueError(f"image_folder: on_broken must be 'error' or 'skip', got '{on_broken}'.")
        if channels not in (1, 3):
            raise ValueError(f"image_folder: channels must be 1 or 3, got {channels}.")
        if decode_size is not None and decode_size < min(as_size(image_size)):
            raise ValueError(f"image_folder: decode_size={decode_size} is smaller than image_size={image_size}.")
        self.root, self.size, self.decode_size = Path(root).expanduser(), as_size(image_size), decode_size
        self.channels, self.in_memory_gb, self.on_broken = channels, in_memory_gb, on_broken

    def load(self) -> Arrays:
        """Find and check the files, and decode them where they fit into memory.

        Raises:
            FileNotFoundError: No such folder, or no image in it.
            ValueError: An empty class folder, a class that is not in ``train/``, or broken images.
        """
        names, files = self._find()
        found = [(path, label, split) for split, listed in files.items() for path, label in listed]
        images = ImageFiles([path for path, _, _ in found], self.channels, self.size, self.decode_size)
        pixels = len(found) * self.channels * self.size[0] * self.size[1]
        inputs, good = self._check(images, in_memory=pixels <= self.in_memory_gb * 1e9)
        found = [found[i] for i in good]
        targets = torch.tensor([label for _, label, _ in found], dtype=torch.int64)
        if missing := set(range(len(names))) - {label for _, label, split in found if split == "train"}:
            raise ValueError(f"{self.root}: no readable image left in {', '.join(names[i] for i in sorted(missing))}.")
        held = {
            split: torch.tensor([i for i, (_, _, s) in enumerate(found) if s == split], dtype=torch.int64)
            for split in files
            if split != "train"
        }
        return Arrays(
            inputs,
            targets,
            self._fingerprint(inputs, targets, names),
            tuple(names),
            test=held.get("test"),
            validation=held.get("validation"),
            decode_size=self.decode_size,
        )

    def _find(self) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
        """Class names, and per split the files with their classes."""
        folders = find_splits(self.root)
        names = [folder.name for folder in subfolders(folders["train"])]
        files: dict[str, list[tuple[Path, int]]] = {}
        strange: list[Path] = []
        for split, folder in folders.items():
            files[split] = []
            empty = []
            for part in subfolders(folder):
                if part.name not in names:
                    raise ValueError(f"{part}: there is no class '{part.name}' in {folders['train']}.")
                paths, others = find_pictures(part)
                strange += others
                empty += [] if paths else [part]
                files[split] += [(path, names.index(part.name)) for path in paths]
            if not files[split]:
                raise FileNotFoundError(
                    f"No images in {folder.absolute()}; expected one folder per class, with files such as"
                    f" {', '.join(EXTENSIONS)}, or without ending."
                )
            if empty:
                raise ValueError(f"The class folder {empty[0]} holds no images; fill it or remove it.")
        if strange:
            listed = ", ".join(path.name for path in strange[:5]) + (", ..." if len(strange) > 5 else "")
            log.info("%s: left out: %d files that are no pictures (%s)", self.root, len(strange), listed)
        return names, files

    def _check(self, images: ImageFiles, in_memory: bool) -> tuple[Inputs, list[int]]:
        """Inputs without the broken ones, and the positions of those that are left."""
        kept: Tensor | None = torch.empty(images.shape, dtype=torch.uint8) if in_memory else None

        def check(position: int) -> str | None:
            path = images.paths[position]
            if kept is None and self.on_broken == "error":
                return images.header(path)
            image = images.one(path)
            if isinstance(image, str):
                return image
            if kept is not None:
                kept[position] = image
            return None

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # PIL decodes without Python's lock
            verdicts = list(pool.map(check, range(len(images))))
        broken = {path: verdict for path, verdict in zip(images.paths, verdicts, strict=True) if verdict}
        if broken and self.on_broken == "error":
            raise ValueError(_report(broken))
        if broken:
            log.warning("%s", _report(broken, skipped=True))
        good = [i for i, verdict in enumerate(verdicts) if not verdict]
        if kept is not None:
            return (kept[torch.tensor(good, dtype=torch.int64)] if broken else kept), good
        return ImageFiles([images.paths[i] for i in good], self.channels, self.size, self.decode_size), good

    def _fingerprint(self, inputs: Inputs, targets: Tensor, names: Sequence[str]) -> str:
        if isinstance(inputs, Tensor):
            return fingerprint(inputs, targets, *names)
        assert isinstance(inputs, ImageFiles)
        stats = [(path.relative_to(self.root).as_posix(), path.stat()) for path in inputs.paths]
        listed = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
        return fingerprint(targets, *names, *listed, f"{inputs.shape[1:]} {self.decode_size}")


def _report(broken: dict[Path, str], skipped: bool = False) -> str:
    """One text that counts and names broken images."""
    lines = [f"  {path} ({reason})" for path, reason in list(broken.items())[:_NAMED]]
    if len(broken) > _NAMED:
        lines.append(f"  ... and {len(broken) - _NAMED} more")
    end = "They are left out." if skipped else "Repair or remove them, or set data.source.on_broken=skip."
    return "\n".join([f"{len(broken)} broken images:", *lines, end])
