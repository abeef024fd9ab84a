"""Responses kept in memory, and on disk where wanted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path


class KeptResponses:
    """Tokens by name. A file may be shared by several processes and runs.

    Args:
        file: SQLite file, made where it is not there; None for memory alone.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._memory: dict[str, list[int]] = {}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._open(file) as database, database:
                database.execute("create table if not exists responses (name text primary key, tokens text not null)")

    def get(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Those of the names that are kept."""
        names = list(names)
        absent = [name for name in names if name not in self._memory]
        if absent and self.file is not None:
            with self._open(self.file) as database, database:
                for name in absent:
                    row = database.execute("select tokens from responses where name = ?", (name,)).fetchone()
                    if row is not None:
                        self._memory[name] = json.loads(row[0])
        return {name: self._memory[name] for name in names if name in self._memory}

    def put(self, responses: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """Keep these, and give them back."""
        self._memory |= responses
        if self.file is not None:
            rows = [(name, json.dumps(tokens)) for name, tokens in responses.items()]
            with self._open(self.file) as database, database:
                # Another process may have written the same sample: the first stays.
                database.executemany("insert or ignore into responses values (?, ?)", rows)
        return dict(responses)

    @staticmethod
    def _open(file: Path) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(file, timeout=60))
