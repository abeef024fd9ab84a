"""Batches of rows: padded, masked, with targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.core.causal import shift_targets
from kd_lightning.data.loader import BatchDataset, Signals
from kd_lightning.data.sampler import Draw
from kd_lightning.data.targets import IGNORE, MASKED_TOKENS, NEXT_TOKENS, TAGS, Target
from kd_lightning.data.text.masking import mask_tokens
from kd_lightning.data.text.packing import restarting_positions
from kd_lightning.data.text.rows import Rows
from kd_lightning.data.text.tokenizers import special_ids

_TEACHER_KEYS = ("input_ids", "attention_mask", "target", "loss_mask", "target_ends")
EVALUATION = -1
"""The view in which masked language models are evaluated: always the same masks."""


@dataclass(frozen=True)
class Form:
    """How rows become batches.

    Args:
        target: The kind of target.
        pad_token_id: Fills rows.
        length: Tokens that every row is padded to; None: the longest of the batch.
        left: Padding on the left.
        mask_token_id: What hides a token (masked_lm).
        special_ids: Tokens that are never hidden.
        random_ids: What a random token is taken from, (V,) int64.
        mask_seed: Decides what is hidden.
        mask_probability: Share of the tokens that are hidden.
    """

    target: Target
    pad_token_id: int
    length: int | None = None
    left: bool = False
    mask_token_id: int | None = None
    special_ids: Tensor | None = None
    random_ids: Tensor | None = None
    mask_seed: int = 0
    mask_probability: float = 0.15


def make_form(
    target: Target, tokenizer: Any, *, length: int | None, left: bool, mask_seed: int, mask_probability: float
) -> Form:
    """The form for a kind of target and a tokenizer; arguments as of :class:`Form`."""
    if target is not MASKED_TOKENS:
        return Form(target, tokenizer.pad_token_id, length, left)
    special = torch.tensor(special_ids(tokenizer))
    everything = torch.arange(len(tokenizer))
    ordinary = everything[~torch.isin(everything, special)]
    mask = tokenizer.mask_token_id
    return Form(target, tokenizer.pad_token_id, length, left, mask, special, ordinary, mask_seed, mask_probability)


class TextDataset(BatchDataset):
    """One split as batches.

    Args:
        rows: The rows of the whole split.
        positions: Those that are used, (n,) int64.
        targets: (n,) targets of the rows used, for tasks with one a row; else None.
        form: How rows become batches.
        signals: Gives more entries of a batch that has a view, or None.
        teacher: The same rows in the teacher's tokens and how they become batches, or None.
    """

    in_memory = True

    def __init__(
        self,
        rows: Rows,
        positions: Tensor,
        targets: Tensor | None,
        form: Form,
        signals: Signals | None = None,
        teacher: tuple[Rows, Form] | None = None,
    ) -> None:
        self.rows, self.positions, self.targets, self.form, self.signals = rows, positions, targets, form, signals
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index = torch.tensor(draw.positions, dtype=torch.int64)
        batch = make_batch(self.rows, self.positions[index], index, draw.view, self.form)
        if self.teacher is not None:
            rows, form = self.teacher
            theirs = make_batch(rows, self.positions[index], index, draw.view, form)
            batch |= {f"teacher_{key}": theirs[key] for key in _TEACHER_KEYS}
        if self.targets is not None:
            batch["target"] = self.targets[index]
        if draw.view is not None:
            batch["view"] = draw.view
            if self.signals is not None:
                batch.update(self.signals(index, draw.view))
        return batch


def make_batch(rows: Rows, positions: Tensor, index: Tensor, view: int | None, form: Form) -> dict[str, Any]:
    """A batch of rows.

    Args:
        rows: All rows.
        positions: Which, (B,) int64.
        index: What they are called, (B,) int64: names of the samples in masking.
        view: Which look; None in evaluation.
        form: How.

    Returns:
        ``input_ids``, ``attention_mask`` (B, T), ``index`` (B,) and what the task has besides; every task of tokens
        its ``target`` (B, T).
    """
    longest = int(rows.lengths[positions].max()) if form.length is None else form.length
    found, real = rows.padded(positions, longest)
    tokens = torch.where(real, found["tokens"], form.pad_token_id)
    batch = {"input_ids": tokens, "attention_mask": real.long()}
    if "types" in found:
        batch["token_type_ids"] = found["types"]
    if form.target is TAGS:
        batch["target"] = torch.where(real, found["labels"], IGNORE)
    elif form.target is MASKED_TOKENS:
        batch["input_ids"], batch["target"] = _masked(tokens, real, index, view, form)
    elif form.target is NEXT_TOKENS:
        batch |= _causal(tokens, real, found, None if rows.prompts is None else rows.prompts[positions])
    if "target" in batch:
        batch["loss_mask"] = batch["target"] != IGNORE
    if form.left:
        batch = to_left(batch, real)
    if form.target is NEXT_TOKENS and "segments" not in found:
        batch["prompt_length"] = torch.zeros_like(index) if rows.prompts is None else rows.prompts[positions]
    return {**batch, "index": index}


def _masked(tokens: Tensor, real: Tensor, index: Tensor, view: int | None, form: Form) -> tuple[Tensor, Tensor]:
    assert form.mask_token_id is not None
    assert form.special_ids is not None
    assert form.random_ids is not None
    return mask_tokens(
        tokens,
        real & ~torch.isin(tokens, form.special_ids),
        index,
        seed=form.mask_seed,
        view=EVALUATION if view is None else view,
        mask_token_id=form.mask_token_id,
        random_ids=form.random_ids,
        probability=form.mask_probability,
    )


def _causal(tokens: Tensor, real: Tensor, found: dict[str, Tensor], prompts: Tensor | None) -> dict[str, Tensor]:
    """Targets; of packed rows positions and segments; where the tokens of two are compared, where the targets end."""
    if "segments" in found:
        return {
            "target": shift_targets(tokens, found["learn"].bool()),
            "segment_ids": found["segments"],
            "position_ids": restarting_positions(found["segments"]),
        }
    learn = real
    if prompts is not None:
        learn = real & (torch.arange(tokens.shape[1]) >= prompts[:, None])
    batch = {"target": shift_targets(tokens, learn)}
    if "ends" in found:
        batch["target_ends"] = found["ends"].roll(-1, 1)
    return batch


def to_left(batch: dict[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """The padding of every (B, T) tensor moved from the right to the left; ``real`` (B, T) bool says what is none."""
    width = real.shape[1]
    source = (torch.arange(width) + real.sum(1, keepdim=True)) % width
    return {name: value.gather(1, source) for name, value in batch.items()}
