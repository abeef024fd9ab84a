"""Checkpoints that are whole or absent, and which of those that are left a training goes on from."""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

log = logging.getLogger("kd_lightning")

DAMAGED = ".damaged"
"""Behind the name of a checkpoint that was set aside."""
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

    One that counts on the weights of another, the best on validation, is no use without it.

    Args:
        paths: Files. Of those that are equally far an exact one is taken, and of these the later written one, as it may
            know of a validation more.
    """
    whole: list[Path] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process of the same training was faster
            if is_whole(path):
                whole.append(path)
                continue
            aside = path.with_name(f"{path.name}{DAMAGED}")
            path.rename(aside)
            log.warning(f"  {path.name} is damaged and set aside: {aside}")
    found = []
    for path in whole:
        content = _content(path)
        # Without a monitor nothing was chosen: the "best" is the one that was written last.
        states = (one for one in content.get("callbacks", {}).values() if isinstance(one, dict) and one.get("monitor"))
        best = {Path(one["best_model_path"]).name for one in states if one.get("best_model_path")}
        lost = [name for name in sorted(best) if path.with_name(f"{name}{DAMAGED}").exists()]
        if lost:
            log.warning(f"  {path.name} counts on {', '.join(lost)}, which is damaged: not gone on from")
        else:
            exact = not content.get(INEXACT, False)
            found.append((int(content["global_step"]), exact, path.stat().st_mtime_ns, path))
    if not found:
        return None
    _, exact, _, newest = max(found)
    if not exact:
        log.warning(
            f"  {newest.name} was saved within a step, by an error: what goes on from it is near a run that was not"
            " stopped, and not equal to it."
        )
    return newest


def is_whole(path: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written: PyTorch stores sums of its parts, but does not ask them.

    Raises:
        OSError: It cannot be read at all.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and "global_step" in _content(path)
    except (PermissionError, FileNotFoundError, MemoryError):
        raise
    except Exception:  # half a file fails in many ways
        return False


def check_whole(path: Path) -> None:
    """Refuse a checkpoint that is damaged.

    Raises:
        ValueError: It is.
    """
    if not is_whole(path):
        raise ValueError(f"{path} is damaged: it is not what was written. Take another checkpoint, or start anew.")


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content
