"""An export folder: its record with a checksum of each file, and which of its files may be read here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd_lightning.config.trust import current_trust
from kd_lightning.deploy.formats.registry import Format, known_format
from kd_lightning.files.artifact import WEIGHTS
from kd_lightning.files.checksum import FILES, DamagedFileError, check_file, checksum, checksums, read_record
from kd_lightning.files.origin import is_own, mark

PREPROCESSING = "preprocessing.json"
RECORD = "export.json"
TOKENIZER = "tokenizer"
MARKS = "marks"


def exported_file(folder: str | Path, backend: str, setting: str = "backend") -> Path:
    """The file of an exported student in one format, whole, and of an origin that the format asks for.

    Args:
        folder: An export folder, or the folder of a run that has one.
        backend: Name of the format.
        setting: What the user set, for errors.

    Raises:
        FileNotFoundError: There is no export, or not in this format.
        ValueError: There is no such format, a file was changed, or it runs code and was made elsewhere.
    """
    form = known_format(backend, f"{setting}={backend}")
    path = export_folder(folder) / form.file
    if not path.exists():
        raise FileNotFoundError(
            f"{path.parent} holds no {form.file}: write it with job=export run={folder} export.formats=[{backend}]."
        )
    record = read_export(path.parent)
    _check(path.parent, record, (form.file, PREPROCESSING, TOKENIZER))
    if form.runs_code:
        _check_origin(path, record, form)
    return path


def read_export(export: Path) -> dict[str, Any]:
    """What export.json says; of a folder without one, nothing.

    Raises:
        DamagedFileError: It was changed.
    """
    try:
        return read_record(export / RECORD)
    except FileNotFoundError:
        return {}


def read_preprocessing(export: Path) -> dict[str, Any]:
    """What preprocessing.json of an export folder says."""
    content: dict[str, Any] = json.loads((export / PREPROCESSING).read_text())
    return content


def export_folder(folder: str | Path) -> Path:
    """The export folder that is meant: the folder itself, or the one in a run.

    Raises:
        FileNotFoundError: There is none.
    """
    for candidate in (Path(folder) / "export", Path(folder)):
        if (candidate / PREPROCESSING).is_file():
            return candidate
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Give that of a finished run, or its export folder.")
    raise FileNotFoundError(f"{folder} holds no exported student: write one with job=export run={folder}.")


def checked_in(export: Path, written: Iterable[Format], kept: Iterable[Format], before: Mapping[str, Any]) -> Any:
    """The entries of export.json by which its files are known again.

    Args:
        export: The folder, with all files but the record.
        written: Formats that were written now: they alone are marked as made here.
        kept: Formats of before; what is said of them is what the record said then, also where they were changed since.
        before: That record.
    """
    own = checksums(export, (WEIGHTS, PREPROCESSING, TOKENIZER, *(form.file for form in written)))
    old = {form.file for form in kept}
    files = {name: sum_ for name, sum_ in before.get(FILES, {}).items() if name.partition("/")[0] in old}
    marks = {name: one for name, one in before.get(MARKS, {}).items() if name in old}
    marks |= {form.file: mark(own[form.file]) for form in written if form.runs_code}
    return {FILES: files | own, MARKS: marks}


def _check(export: Path, record: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse files that were changed, are gone, or lie in a folder of the export without having been written there."""
    known: dict[str, str] = record.get(FILES, {})
    for name in names:
        there = set(checksums(export, (name,))) if (export / name).is_dir() else {name}
        expected = {one for one in known if one.partition("/")[0] == name}
        for one in sorted(expected | (there if expected else set())):
            try:
                if one not in known:
                    raise DamagedFileError(f"{export / one} is not of this export.")
                check_file(export / one, known[one])
            except DamagedFileError as error:
                raise DamagedFileError(f"{error} Copy it again, or export anew: job=export run=<run>.") from None


def _check_origin(path: Path, record: Mapping[str, Any], form: Format) -> None:
    if current_trust().everything:
        return
    known, marked = record.get(FILES, {}).get(form.file), record.get(MARKS, {}).get(form.file)
    if known is None or not is_own(checksum(path), marked):
        raise ValueError(
            f"{path} was not written by you on this machine, and reading a {form.title} file can run code that is in it"
            " (docs/deploy.md). Take another format, such as onnx; or, where you know who made it: trust=true."
        )
