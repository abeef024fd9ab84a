"""Tables in local files, and plain text."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_lightning.data.text.sources._columns import Columns, check_splits, official
from kd_lightning.data.text.sources.tables import KINDS, read_table, read_text
from kd_lightning.data.text.texts import Texts

Files = str | Sequence[str]


class TextFiles:
    """Samples in csv, tsv, json, jsonl or parquet files, or lines of txt files (column ``text``).

    Args:
        files: File, glob pattern or list of them; or a mapping from train, validation, test to that, where the data
            is split already.
        root: Folder that relative paths start from.
        quote: Whether fields of csv and tsv may be quoted.
        delimiter: Between fields of csv and tsv; None: a comma, or a tab.
        class_names: Names of the classes where labels are their numbers; None to take the labels that occur.
        missing: A label, or a list of labels, that says that a row has none, as an empty cell does.
        columns: ``text``, ``pair``, ``label``, ``words``, ``tags``, ``prompt``: names of columns, see
            :class:`Columns`.
    """

    def __init__(
        self,
        files: Files | Mapping[str, Files],
        root: str = ".",
        quote: bool = True,
        class_names: Sequence[str] | None = None,
        missing: Any = None,
        delimiter: str | None = None,
        **columns: str | None,
    ) -> None:
        if delimiter is not None and len(delimiter) != 1:
            raise ValueError(f"data.source.delimiter must be one character or null, got {delimiter!r}.")
        self.delimiter = delimiter
        self.files, self.root, self.quote, self.missing = files, Path(root), quote, missing
        self.class_names = None if class_names is None else tuple(class_names)
        self.columns = Columns(**columns)

    def load(self) -> Texts:
        """Read the files.

        Raises:
            FileNotFoundError: There is none.
            ValueError: One cannot be read or has not the columns.
        """
        parts = dict(self.files) if isinstance(self.files, Mapping) else {"train": self.files}
        parts = {name: files for name, files in parts.items() if files is not None}
        check_splits(parts)
        table: dict[str, list[Any]] = {name: [] for name in self.columns.named.values()}
        sizes = {}
        for split, files in parts.items():
            sizes[split] = 0
            for path in find_files(files, self.root):
                found = read_table(path, self.columns, self.quote, self.delimiter)
                for name, column in table.items():
                    column += found[name]
                sizes[split] += len(next(iter(found.values())))
        return self.columns.texts(table, sizes, str(self.files), self.missing, class_names=self.class_names)


class PlainText:
    """Documents for language models.

    Args:
        files: Text file, glob pattern or list of them; or a mapping from train, validation, test to that.
        root: Folder that relative paths start from.
        document: What one document is, which is never shared between splits: ``file``, ``paragraph`` (empty lines
            between) or ``line``. Lines are samples of their own, the others are joined and cut into blocks.
        encoding: Of the files.
    """

    def __init__(
        self, files: Files | Mapping[str, Files], root: str = ".", document: str = "file", encoding: str = "utf-8"
    ) -> None:
        if document not in ("file", "paragraph", "line"):
            raise ValueError(f"data.source.document must be file, paragraph or line, got {document}.")
        self.files, self.root, self.document, self.encoding = files, Path(root), document, encoding

    def load(self) -> Texts:
        """Read the files.

        Raises:
            FileNotFoundError: There is none.
            ValueError: Not text in this encoding, or too few documents to be split.
        """
        parts = dict(self.files) if isinstance(self.files, Mapping) else {"train": self.files}
        parts = {name: files for name, files in parts.items() if files is not None}
        check_splits(parts)
        documents: list[str] = []
        sizes = {}
        for split, files in parts.items():
            before = len(documents)
            for path in find_files(files, self.root):
                documents += cut(read_text(path, self.encoding), self.document)
            sizes[split] = len(documents) - before
        if len(sizes) == 1 and len(documents) < 3:
            raise ValueError(
                f"{self.files} holds {len(documents)} document(s) (data.source.document={self.document}), too few to"
                " be split: take paragraph or line, or name the files of each split (train, validation, test)."
            )
        return Texts(documents, documents=self.document != "line", **official(sizes))


def cut(text: str, document: str) -> list[str]:
    """Documents of a text: ``file``, ``paragraph`` or ``line``; empty ones are left out."""
    if document == "file":
        return [text] if text.strip() else []
    if document == "line":
        return [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            paragraphs[-1].append(line.rstrip())
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(lines) for lines in paragraphs if lines]


def find_files(files: Files, root: Path) -> list[Path]:
    """The files that paths and patterns mean, in order.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A kind that is not known.
    """
    found: list[Path] = []
    for pattern in [files] if isinstance(files, str) else files:
        path = root / Path(pattern).expanduser()
        matches = [path] if path.is_file() else sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        matches = [match for match in matches if match.is_file()]
        if not matches:
            near = sorted(p.name for p in path.parent.iterdir() if p.suffix in KINDS) if path.parent.is_dir() else []
            beside = f" {path.parent} holds {', '.join(near[:8])}." if near else ""
            raise FileNotFoundError(f"No file {path}; set data.source.files (and data.root).{beside}")
        found += matches
    return found
