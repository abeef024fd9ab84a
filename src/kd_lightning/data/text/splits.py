"""Rows of tokens for every split of the samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd_lightning.data.arrays import fingerprint
from kd_lightning.data.split import NAMES, Split
from kd_lightning.data.text.encode import Layout, encode
from kd_lightning.data.text.labels import Samples
from kd_lightning.data.text.rows import Rows, cached_rows
from kd_lightning.data.text.teacher_tokens import TeacherTokens
from kd_lightning.data.text.tokenizers import tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raised when texts become other rows than before.
VERSION = 1
# The same for prompts in a template alone.
TEMPLATED = "templates are whole, and begin once"


@dataclass(frozen=True)
class Encoder:
    """Makes rows of samples, or reads them from the cache.

    Args:
        samples: The pool.
        tokenizer: Of the student.
        layout: How samples become rows.
        folder: The cache.
        teacher: The teacher's own tokens, whose rows it keeps itself; or None.
    """

    samples: Samples
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    folder: Path
    teacher: TeacherTokens | None = None

    def encode(self, documents: Split) -> tuple[dict[str, Rows], Split, str]:
        """Rows of every split of the samples that is not empty; the split of the rows, numbered from the first one of
        training on; and a hash of what decides them."""
        settings = [self.samples.fingerprint, tokenizer_hash(self.tokenizer), repr(asdict(self.layout)), str(VERSION)]
        settings += [] if self.layout.template is None else [TEMPLATED]
        settings += [] if self.teacher is None else self.teacher.settings
        rows: dict[str, Rows] = {}
        positions: dict[str, Tensor] = {}
        start = 0
        for name in NAMES:
            if len(documents[name]):
                rows[name] = self._rows(name, documents[name], settings)
            count = len(rows[name]) if name in rows else 0
            positions[name] = torch.arange(start, start + count)
            start += count
        # The numbers of the rows say nothing of who is in which split.
        split = Split(**positions, data_fingerprint=fingerprint(*settings, documents.fingerprint))
        return rows, split, fingerprint(*settings)

    def _rows(self, split: str, positions: Tensor, settings: list[str]) -> Rows:
        def path(*side: str) -> Path:
            return self.folder / f"rows-{fingerprint(*settings, *side, positions)[:24]}.safetensors"

        made_of = (self.samples, positions, self.tokenizer, self.layout)
        if self.teacher is not None:
            return self.teacher.encode(split, path, *made_of)
        return cached_rows(path(), partial(encode, *made_of))
