"""Checkpoints that are whole or absent, and which of those that are left a training goes on from."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

log = logging.getLogger("kd_lightning")

INEXACT = "within_a_step"
"""Key of a checkpoint that an error left within a step: what goes on from it is near, not equal."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there.

    Lightning's own goes through the system's folder for temporary files: where that lies on another disk, the move is a
    copy, and a process that is killed or a disk that is full leaves half a file in the place of the last good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """As Lightning's, on a local file system."""
        place = Path(path)
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as handle:
                torch.save(checkpoint, handle)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)


def newest_whole(paths: Iterable[Path]) -> Path | None:
    """The checkpoint that is furthest in the training, of those that are whole; the others are set aside, by name.

    Args:
        paths: Files. Of those that are equally far an exact one is taken, and of these the later written one, as it may
            know of a validation more.
    """
    found = []
    for path in paths:
        state = _state(path)
        if state is None:
            aside = path.with_suffix(f"{path.suffix}.damaged")
            with contextlib.suppress(FileNotFoundError):  # another process of the same training was faster
                path.rename(aside)
                log.warning(f"  {path.name} is damaged and set aside: {aside}")
        else:
            step, exact = state
            found.append((step, exact, path.stat().st_mtime_ns, path))
    if not found:
        return None
    _, exact, _, path = max(found)
    if not exact:
        log.warning(
            f"  {path.name} was saved within a step, by an error: what goes on from it is near a run that was not"
            " stopped, and not equal to it."
        )
    return path


def _state(path: Path) -> tuple[int, bool] | None:
    """Steps of the optimiser that a checkpoint has behind it, and whether it is exact; None where it is not whole."""
    if path.stat().st_size == 0:
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["global_step"]), not content.get(INEXACT, False)
    except (PermissionError, FileNotFoundError, MemoryError):
        raise
    except Exception:  # half a file fails in many ways
        return None
