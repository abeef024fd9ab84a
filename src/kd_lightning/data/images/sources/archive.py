"""Where the files of a data set are: a folder, or a .tar.gz that is read in place."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tarfile
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)


def find_files(root: Path, folder: str, archive: str, names: Sequence[str]) -> dict[str, bytes] | None:
    """Content of the files ``names``; None where there is neither folder nor archive.

    Looked for, in this order: in ``root``, in ``root/folder``, in the archive ``root/archive``, in ``root`` as the
    archive itself. The archive is not unpacked: that needs no right to write, cannot write outside the folder, and
    processes that start together cannot meet half a file.

    Raises:
        FileNotFoundError: Some of the files are there and others are missing.
        ValueError: The archive is damaged or does not hold the files.
    """
    for place in (root, root / folder):
        present = [name for name in names if (place / name).is_file()]
        if present:
            if missing := [name for name in names if name not in present]:
                raise FileNotFoundError(f"{place} is incomplete: {', '.join(missing)} missing. Unpack {archive} anew.")
            return {name: (place / name).read_bytes() for name in names}
    for path in (root / archive, root):
        if path.is_file():
            return _from_archive(path, names)
    return None


def _from_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name in names and member.isfile() and (file := tar.extractfile(member)):
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or not a .tar.gz: {error}. Download it again.") from error
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} does not hold {', '.join(missing)}; it is another archive.")
    return found


def download(url: str, md5: str, path: Path, timeout: float = 30.0) -> None:
    """Fetch ``url`` to ``path``, which appears only when it is whole.

    Raises:
        OSError: No connection, or no right to write.
        ValueError: The checksum is wrong.
    """
    log.info("downloading %s to %s", url, path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            path.parent.mkdir(parents=True, exist_ok=True)  # only now: no empty folder where there is no connection
            with partial.open("wb") as file:
                while chunk := response.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() != md5:
            raise ValueError(f"{url} arrived damaged: its md5 is {digest.hexdigest()}, not {md5}. Try again.")
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
