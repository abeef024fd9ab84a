"""Shards: some rows of one signal in one file, checked by a checksum and read through memory mapping.

The file is safetensors, so any tool can read it: the tensor ``rows``, and in its metadata what it belongs to and the
sha256 of both. It is written beside its place and moved there whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_PART = re.compile(r"\.(?P<host>.+)\.(?P<pid>\d+)\.part$")
# Files that this process has checked, as they were then.
_CHECKED: set[tuple[str, int, int, int]] = set()


class DamagedShardError(ValueError):
    """A shard that cannot be read, whose checksum is wrong, or that belongs to something else."""


def write_shard(path: Path, rows: Tensor, identity: Mapping[str, str]) -> None:
    """Write a shard; a reader sees the whole of it or nothing, whoever else writes the same one.

    Args:
        path: Where.
        rows: (n, ...) on the CPU.
        identity: What the rows are; ``open_shard`` asks for the same.
    """
    rows = rows.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        save_file({"rows": rows}, part, metadata={**identity, "sha256": _checksum(rows, identity)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_shard(path: Path, identity: Mapping[str, str]) -> Tensor:
    """The rows of a shard, mapped: only what is indexed is read. The checksum is verified once in a process.

    Raises:
        FileNotFoundError: There is none.
        DamagedShardError: It is damaged, or not of this identity; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            rows: Tensor = file.get_tensor("rows")
    except (SafetensorError, OSError) as error:
        raise DamagedShardError(f"{path} is damaged: {error}") from None
    checksum = metadata.pop("sha256", None)
    if metadata != dict(identity):
        different = sorted(key for key in {*metadata, *identity} if metadata.get(key) != identity.get(key))
        raise DamagedShardError(f"{path} belongs to something else: its {', '.join(different)} differs")
    stat = path.stat()
    seen = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if seen not in _CHECKED:
        if checksum != _checksum(rows, identity):
            raise DamagedShardError(f"{path} is damaged: its checksum is wrong")
        _CHECKED.add(seen)
    return rows


def _checksum(rows: Tensor, identity: Mapping[str, str]) -> str:
    head = json.dumps([dict(identity), str(rows.dtype), list(rows.shape)], sort_keys=True)
    digest = hashlib.sha256(head.encode())
    if rows.numel():
        digest.update(rows.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove what writers on this machine that were killed have left half written."""
    for part in folder.rglob(".*.part"):
        match = _PART.search(part.name)
        if match is not None and match["host"].endswith(socket.gethostname()) and not _is_alive(int(match["pid"])):
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
