"""What of the texts is of no use, or not read whole: said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from kd_lightning.data.text.labels import Samples
from kd_lightning.data.text.rows import Rows
from kd_lightning.data.text.texts import in_chunks


def notes(samples: Samples, rows: Mapping[str, Rows], duplicates: int, length: int) -> list[str]:
    """Counts in words; empty strings where there is nothing to be said.

    Args:
        samples: The pool.
        rows: Of every split.
        duplicates: Samples that were left out since their texts occur before.
        length: Most tokens of a row.
    """
    hidden = [f"the {split} split ({size} samples, none with a label)" for split, size in samples.left_out.items()]
    gone = [*hidden, *([f"{duplicates} duplicates"] if duplicates else [])]
    empty = sum(not text.strip() for text in in_chunks(samples.texts.text))
    cut = ", ".join(f"{one.cut} {split}" for split, one in rows.items() if one.cut)
    return [
        f"left out: {', '.join(gone)}" if gone else "",
        f"empty texts: {empty}" if empty else "",
        f"longer than max_length={length}, and cut: {cut}" if cut else "",
    ]
