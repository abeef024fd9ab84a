"""Checksums of what was written: a file that was changed since is found, and named, before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kd_lightning.files.runs import write_json

FILES = "files"
OWN = "checksum"
# Files that this process has read through, as they were then: a large one is not read twice.
_KNOWN: dict[tuple[str, int, int, int], str] = {}


class DamagedFileError(ValueError):
    """A file that is not what was written; names it."""


def checksum(path: Path) -> str:
    """The sha256 of a file, computed once a process unless the file is written again."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if key not in _KNOWN:
        with path.open("rb") as handle:
            _KNOWN[key] = hashlib.file_digest(handle, "sha256").hexdigest()
    return _KNOWN[key]


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> checksum of the files that are there; a folder stands for every file in it."""
    found: dict[str, str] = {}
    for name in names:
        place = folder / name
        inside = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
        found |= {path.relative_to(folder).as_posix(): checksum(path) for path in inside if path.is_file()}
    return found


def check_file(path: Path, expected: str | None) -> Path:
    """The path of a file that is as it was written.

    Args:
        path: The file.
        expected: Its checksum; None where it was written before there were any: then only its form is looked at.

    Raises:
        FileNotFoundError: There is none.
        DamagedFileError: It was changed, or is cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}")
    if expected is not None and checksum(path) != expected:
        raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum is another one).")
    if expected is None and path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"{path} is damaged: {error}") from None
    return path


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that tells when it was changed; what it says of files are :func:`checksums` under ``files``."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != OWN}))
    write_json(path, {**plain, OWN: _of_content(plain)})


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote; also one of before, which has no checksum.

    Raises:
        FileNotFoundError: There is none.
        DamagedFileError: It was changed, or is no JSON.
    """
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged: it holds no record.")
    own = content.pop(OWN, None)
    if own is not None and own != _of_content(content):
        raise DamagedFileError(f"{path} is damaged: it is not what was written (its checksum is another one).")
    return content


def _of_content(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
