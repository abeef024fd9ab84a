"""What a data module holds where the teacher has a tokenizer of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kd_lightning.data.targets import NEXT_TOKENS
from kd_lightning.data.text.batches import Form, make_form
from kd_lightning.data.text.choices import check_found
from kd_lightning.data.text.encode import Layout
from kd_lightning.data.text.labels import Samples
from kd_lightning.data.text.rows import Rows, cached_rows
from kd_lightning.data.text.tokenizers import Corpus, TokenizerFactory, row_length, tokenizer_hash
from kd_lightning.data.text.two_tokenizers import encode_pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TeacherTokens:
    """The teacher's tokenizer, and the rows of every split in its tokens.

    Args:
        factory: Makes the tokenizer.
        max_length: Most tokens of a row; None: as many as the student's have, or its checkpoint takes.
        vocab_size: Checked against the tokenizer; None to take what is found.
        pad_token_id: As ``vocab_size``.
    """

    def __init__(
        self, factory: TokenizerFactory, max_length: int | None, vocab_size: int | None, pad_token_id: int | None
    ) -> None:
        if not isinstance(factory, TokenizerFactory):
            raise ValueError(f"data.teacher_tokenizer must have build(), got {type(factory).__name__}.")
        self.factory, self.max_length = factory, max_length
        self.wanted = {"teacher_vocab_size": vocab_size, "teacher_pad_token_id": pad_token_id}
        self.rows: dict[str, Rows] = {}
        self.tokenizer: Any = None

    def open(self, corpus: Corpus, folder: Path, layout: Layout, name: str) -> None:
        """Make the tokenizer for rows like the student's.

        Raises:
            ValueError: It does not fit the task or the configuration.
        """
        if layout.target is not NEXT_TOKENS or layout.packing:
            raise ValueError(
                "data.teacher_tokenizer is for data.task=causal_lm with data.packing=false; got"
                f" task={layout.task}, packing={str(layout.packing).lower()}."
            )
        self.tokenizer = self.factory.build(corpus, folder)
        if self.tokenizer.eos_token_id is None:
            raise ValueError("data.teacher_tokenizer has no end token (eos), which data.task=causal_lm needs.")
        limit = self.tokenizer.model_max_length
        length = min(layout.max_length, limit) if self.max_length is None else row_length(self.max_length, limit)
        if length < 4:
            raise ValueError(f"data.teacher_max_length must be at least 4, got {length}.")
        self.layout = replace(layout, max_length=length)
        check_found(f"{name}'s teacher_tokenizer", self.wanted, self.facts)

    @property
    def facts(self) -> dict[str, Any]:
        """``teacher_vocab_size``, ``teacher_pad_token_id`` and ``teacher_max_length``."""
        found = {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        return {f"teacher_{key}": value for key, value in {**found, "max_length": self.layout.max_length}.items()}

    @property
    def settings(self) -> list[str]:
        """What decides its rows, beside what decides the student's."""
        return [tokenizer_hash(self.tokenizer), str(self.layout.max_length)]

    def encode(
        self,
        split: str,
        path: Callable[[str], Path],
        samples: Samples,
        positions: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
    ) -> Rows:
        """Rows of a split in the student's tokens; those in the teacher's are kept here. Arguments as of
        :func:`encode_pair`; ``path`` says where rows of a kind are cached."""
        pair = cache(lambda: encode_pair(samples, positions, (tokenizer, self.tokenizer), (layout, self.layout)))
        self.rows[split] = cached_rows(path("teacher"), lambda: pair()[1])
        return cached_rows(path("student"), lambda: pair()[0])

    def form(self, student: Form) -> Form:
        """How its rows become batches: as the student's do."""
        length = None if student.length is None else self.layout.max_length
        plain = {"mask_seed": student.mask_seed, "mask_probability": student.mask_probability}
        return make_form(student.target, self.tokenizer, length=length, left=student.left, **plain)  # type: ignore[arg-type]
