"""Texts that a user names: on the command line, in files, on standard input."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STDIN = "-"
FILES = (".csv", ".jsonl", ".txt")
_LONGEST = 2**27  # characters of a cell; csv itself refuses more than 131,072


def read_texts(given: str, pair: bool) -> Iterator[tuple[str, str]]:
    """The texts that an input means, each with its second text (empty where texts are single).

    Args:
        given: A text; a .txt file with a text a line; a .csv or .jsonl file with a column ``text``; ``-`` for texts on
            standard input, one a line.
        pair: Whether two texts belong together: in the column ``pair``, or on a line with a tab between.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be read, or lacks what it must have.
    """
    path = Path(given)
    suffix = path.suffix.lower()
    if given == STDIN:
        yield from (_line(line.rstrip("\r\n"), pair) for line in sys.stdin if line.strip())
    elif suffix not in FILES:
        yield _line(given, pair)
    elif not path.is_file():
        raise FileNotFoundError(f"inputs: {given} does not exist.")
    else:
        try:
            with path.open(newline="", encoding="utf-8-sig") as handle:
                if suffix == ".txt":
                    yield from (_line(line.rstrip("\r\n"), pair) for line in handle if line.strip())
                else:
                    rows = _csv(handle) if suffix == ".csv" else _jsonl(handle, given)
                    yield from (_row(row, given, pair) for row in rows)
        except UnicodeDecodeError as error:
            raise ValueError(f"{given} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
        except csv.Error as error:
            raise ValueError(f"{given} cannot be read as a table: {error}.") from None


def _line(line: str, pair: bool) -> tuple[str, str]:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ValueError(f"inputs: {line!r:.80} is not UTF-8.") from None
    first, tab, second = line.partition("\t")
    if not pair:
        return line, ""
    if not tab:
        raise ValueError(f"This student compares two texts: put a tab between them, not only {line!r:.80}.")
    return first, second


def _csv(handle: Any) -> Iterator[dict[str, Any]]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield from csv.DictReader(handle)
    finally:
        csv.field_size_limit(before)


def _jsonl(handle: Any, file: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"{file}, line {number}, is not JSON.") from None
        if not isinstance(row, dict):
            raise ValueError(f'{file}, line {number}, is no object: write {{"text": "..."}}.')
        yield row


def _row(row: dict[str, Any], file: str, pair: bool) -> tuple[str, str]:
    keys = ("text", "pair") if pair else ("text",)
    for key in keys:
        if not isinstance(row.get(key), str):
            there = ", ".join(map(str, row))
            raise ValueError(f"{file} has no column '{key}' with a text in every row; there are {there}.")
        try:
            row[key].encode()
        except UnicodeEncodeError:
            raise ValueError(f"{file}: {row[key]!r:.80} holds half a surrogate pair.") from None
    return row["text"], row["pair"] if pair else ""
