"""Tables in files: csv, tsv, json, jsonl, parquet; what cannot be read is named by its place and its cause."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from kd_lightning.data.text.sources._columns import Columns

KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_table(path: Path, columns: Columns, quote: bool, delimiter: str | None) -> dict[str, list[Any]]:
    """The columns that are asked, by name.

    Args:
        path: The file.
        columns: Which are asked.
        quote: Whether fields of csv and tsv may be quoted.
        delimiter: Between fields of csv and tsv; None: a comma, or a tab.

    Raises:
        ValueError: It cannot be read, has not the columns, or has one of them twice.
    """
    if path.suffix == ".txt":
        return _only({"text": [line for line in read_text(path).split("\n") if line.strip()]}, path, columns)
    if path.suffix in (".json", ".jsonl"):
        return _only(_json_columns(path), path, columns)
    if path.suffix in DELIMITERS:
        table = _separated(path, columns, quote, delimiter or DELIMITERS[path.suffix])
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        try:
            names = parquet.read_schema(path).names
            # Only the first reads what a folder's name says of it, and only the second a column that is there twice.
            table = parquet.read_table(path) if len(set(names)) == len(names) else parquet.ParquetFile(path).read()
        except Exception as error:  # pyarrow has errors of its own here
            raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    else:
        raise ValueError(f"{path} cannot be read: its kind is none of {', '.join(KINDS)}.{_word_a_line(path, columns)}")
    times = Counter(table.column_names)
    for name in columns.named.values():
        if times[name] > 1:
            raise ValueError(
                f"{path} has {times[name]} columns that are called '{name}'; rename all but the right one."
            )
    names = [name for name in columns.named.values() if name in times]
    return _only({name: table[name].to_pylist() for name in names}, path, columns, list(times))


def _only(
    found: dict[str, list[Any]], path: Path, columns: Columns, names: list[str] | None = None
) -> dict[str, list[Any]]:
    """The columns that are asked, where all are there."""
    columns.check(names or found, str(path), _word_a_line(path, columns))
    return {name: found[name] for name in columns.named.values()}


def _word_a_line(path: Path, columns: Columns) -> str:
    if columns.words is None or path.suffix in (".json", ".jsonl", ".parquet"):
        return ""
    return (
        " Words with tags are lists: turn a file with one word a line (CoNLL) into jsonl, a sentence a line:"
        ' {"words": ["in", "Rome"], "tags": ["O", "LOC"]}.'
    )


# ---- text


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A text file; every end of a line is one character.

    Raises:
        ValueError: It is in another encoding.
    """
    text = _decoded(path, path.read_bytes(), encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(path: Path, data: bytes, encoding: str = "utf-8") -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        probably = "utf-16" if wide else "latin1"
        raise ValueError(
            f"{path} is not {encoding} text: line {line} has the byte 0x{data[error.start]:02x}. It is probably"
            f" {probably}; convert it to UTF-8:  iconv -f {probably} -t utf-8 {path.name} > utf8{path.suffix}"
        ) from None


# ---- csv and tsv


def _separated(path: Path, columns: Columns, quote: bool, delimiter: str) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    data = path.read_bytes()
    header = _decoded(path, data).partition("\n")[0]
    texts = [columns.text, columns.pair, columns.prompt]
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quote else False, newlines_in_values=quote
            ),
            # What looks like a number stays as it is written.
            convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in texts if name is not None}),
        )
    except Exception as error:  # pyarrow has errors of its own here
        hint = _other_delimiter(header, delimiter) or _word_a_line(path, columns)
        if not hint and quote and data.count(b'"') % 2:
            hint = " Its quotation marks are no pairs: if its fields are not quoted, set data.source.quote=false."
        hint = hint or f" A text that holds {delimiter!r} must stand in quotation marks."
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}.{hint}") from error
    if not set(columns.named.values()) <= set(table.column_names) and (hint := _other_delimiter(header, delimiter)):
        raise ValueError(f"{path} has one column only by {delimiter!r}: '{header.strip():.60}'.{hint}")
    return table


def _other_delimiter(header: str, delimiter: str) -> str:
    """What to do where the first line knows another delimiter and not this one; or nothing."""
    if delimiter in header:
        return ""
    most = max(",;\t|", key=header.count)
    if most not in header:
        return ""
    name = "tab" if most == "\t" else f"'{most}'"
    return f" Its columns seem to be separated by {name}: set data.source.delimiter={json.dumps(most)} (in quotes)."


# ---- json


def _json_columns(path: Path) -> dict[str, list[Any]]:
    """Columns of the objects: a list of them, or one a line. What an object does not have is None."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = [(f"entry {number}", row) for number, row in enumerate(_parsed(text, path, 1), 1)]
    else:
        # Only this ends a line: U+2028 and the like may stand inside a text.
        lines = enumerate(text.split("\n"), 1)
        rows = [(f"line {number}", _parsed(line, path, number)) for number, line in lines if line.strip()]
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f'{path}, {place}: expected an object such as {{"text": "..."}}, got {row!r:.60}.')
    names = dict.fromkeys(name for _, row in rows for name in row)
    return {name: _alike([row.get(name) for _, row in rows]) for name in names}


def _parsed(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        near = error.doc[max(0, error.pos - 20) : error.pos + 20]
        raise ValueError(
            f"{path}, line {line + error.lineno - 1}, column {error.colno}: {error.msg}, near {near!r}."
        ) from None
    except RecursionError:
        raise ValueError(f"{path}, line {line}: it is nested too deeply.") from None


def _alike(values: list[Any]) -> list[Any]:
    """Whole numbers among others as floats, as tables have them."""
    kinds = {type(value) for value in values if value is not None}
    return [None if value is None else float(value) for value in values] if kinds == {int, float} else values
