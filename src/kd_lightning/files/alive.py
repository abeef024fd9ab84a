"""Whether the process that works in a run folder still lives, on this machine or on another that shares the folder."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_lightning.files.lock import is_held

log = logging.getLogger("kd_lightning")

BEAT = 15.0
"""Seconds between two signs of life of a process."""
LONG_AGO = 600.0
"""So old a sign is no sign, whatever the clocks of two machines say."""


def owner() -> dict[str, Any]:
    """This process, for telling a live run from a dead one."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


@contextmanager
def beating(path: Path, seconds: float = BEAT) -> Iterator[None]:
    """Give a sign of life by a file's time of change, as long as the block runs.

    Args:
        path: The file.
        seconds: How often.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds):
            try:
                os.utime(path)
            except OSError:  # a full or slow disk is told by what writes on it
                continue

    thread = threading.Thread(target=beat, daemon=True, name="sign of life")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def is_alive(folder: Path, path: Path, status: Mapping[str, Any], beat: float = BEAT) -> bool:
    """Whether the process that wrote a state still runs.

    On this machine its number and its start tell: numbers are given again, to other processes. Of another machine the
    lock of the folder tells, where the machines share locks, and else whether it gives signs of life.

    Args:
        folder: Run folder.
        path: The file of its state.
        status: What it says.
        beat: Seconds between two signs.
    """
    if status.get("state") != "running":
        return False
    if status.get("host") == socket.gethostname():
        pid = int(status.get("pid", -1))
        if pid == os.getpid() or not _exists(pid):
            return False
        then, now = status.get("started"), _started(pid)
        return is_held(folder) if then is None or now is None else then == now
    return is_held(folder) or _beats(path, str(status.get("host")), beat)


def _beats(path: Path, host: str, beat: float) -> bool:
    """Whether a file is touched while it is watched."""
    first = _touched(path)
    if first is None or abs(time.time() - first) > LONG_AGO:
        return False
    log.warning(f"{path.parent} may be in use on {host}: looking for a sign of life ({3 * beat:.0f} s) ...")
    end = time.monotonic() + 3 * beat
    while time.monotonic() < end:
        time.sleep(beat / 15)
        if _touched(path) != first:
            return True
    return False


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _started(pid: int) -> str | None:
    """When a process of this machine began, in words that no other one has; None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None
