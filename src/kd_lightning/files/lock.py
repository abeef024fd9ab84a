"""Locks between processes, also of machines that share a folder: what one trains, the others wait for or leave."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, so no two processes on one study or teacher store
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kd_lightning")


# How a file system says that it has no locks; the last: a folder cannot be locked there.
_NONE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
PATIENCE = 8.0
"""Seconds that a folder may be held after its command was killed: by data workers, which end when they notice."""


@contextmanager
def exclusive(path: Path, wait: bool | float = True, waiting: str = "") -> Iterator[bool]:
    """Hold the lock of a file or folder; it ends with the block, or with the process however that ends.

    Where the file system has no locks it is held by all who ask, and a line says so.

    Args:
        path: A lock file, which is made where it is absent, and left there; or a folder.
        wait: Wait until another holder is done; False: give up at once; a number: after so many seconds.
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
            mine = _got(handle, wait, waiting)
        except OSError as error:
            if error.errno not in _NONE:
                raise
            _say_none(path if path.is_dir() else path.parent, str(error.strerror))
            yield True
            return
        try:
            yield mine
        finally:
            # Said aloud: a data worker that was forked meanwhile has the file open too, and would hold the lock.
            if mine:
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _got(handle: int, wait: bool | float, waiting: str) -> bool:
    end = time.monotonic() + float(wait)
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is not True and time.monotonic() >= end:
                return False
        else:
            return True
        if wait is True:
            if waiting:
                log.info(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
            return True
        time.sleep(0.1)


@cache
def _say_none(folder: Path, why: str) -> None:
    log.warning(f"{folder}: this file system has no locks ({why}); start one command in it at a time.")


def in_use(folder: Path) -> AbstractContextManager[bool]:
    """Hold a folder while a command works in it; it is let go with the block, or with the process however that ends.

    Args:
        folder: It is there.

    Returns:
        A context that says whether nobody else holds it; also where the file system has no locks.
    """
    return exclusive(folder, wait=PATIENCE)


def is_held(folder: Path) -> bool:
    """Whether another process holds a folder now."""
    if not folder.is_dir():
        return False
    with exclusive(folder, wait=False) as mine:
        return not mine
