"""Locks between processes, also of machines that share a folder: what one trains, the others wait for or leave."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, so no two processes on one study or teacher store
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kd_lightning")


@contextmanager
def exclusive(path: Path, wait: bool = True, waiting: str = "") -> Iterator[bool]:
    """Hold the lock of a file or folder; it ends with the block, or with the process however that ends.

    Args:
        path: A lock file, which is made where it is absent, and left there; or a folder.
        wait: Wait until another holder is done; False: give up at once.
        waiting: What to log before waiting.

    Yields:
        Whether the lock is held.
    """
    if fcntl is None:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            if waiting:
                log.info(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield True
        finally:
            # Said aloud: a data worker that was forked meanwhile has the file open too, and would hold the lock.
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


@contextmanager
def in_use(folder: Path) -> Iterator[bool]:
    """Hold a folder while a command works in it; it is let go with the block, or with the process however that ends.

    Args:
        folder: It is there.

    Yields:
        Whether nobody else holds it; also where the file system has no locks.
    """
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(exclusive(folder, wait=False))
        except OSError as error:
            log.info(f"{folder}: this file system has no locks ({error.strerror}); start one command in it at a time.")
            mine = True
        yield mine
