"""Which files were made on this machine: a mark that only the key of its user can make.

Some formats are programs, and run code when they are read. A checksum says that such a file is whole, not who made it:
whoever makes one makes the checksum too. So the exporter marks what it writes with a key that never leaves the machine.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger("kd_lightning")

BYTES = 32


def key_file() -> Path:
    """Where the key lies: ``$XDG_STATE_HOME/kd_lightning/key``, which is ``~/.local/state`` where that is not set."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "kd_lightning" / "key"


def mark(checksum: str) -> str | None:
    """The mark of a file with this checksum; None, and said, where this user can keep no key."""
    try:
        key = _read() or _made()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.warning(f"No key can be kept in {key_file().parent} ({error}): reading .pt2 files will need trust=true.")
        return None
    return hmac.new(key, checksum.encode(), "sha256").hexdigest()


def is_own(checksum: str, marked: str | None) -> bool:
    """Whether this user has marked a file with this checksum."""
    try:
        key = _read()
    except (OSError, RuntimeError):
        return False
    own = None if key is None else hmac.new(key, checksum.encode(), "sha256").hexdigest()
    return own is not None and isinstance(marked, str) and hmac.compare_digest(own.encode(), marked.encode())


def _read() -> bytes | None:
    try:
        key = key_file().read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == BYTES else None


def _made() -> bytes:
    """A new key, for this user's eyes only; that of another process where it was faster."""
    place = key_file()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = place.with_name(f".key.{os.getpid()}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(part, place)
    finally:
        part.unlink(missing_ok=True)
    key = _read()
    if key is None:
        raise OSError(f"{place} holds no key; remove it")
    return key
