"""Masking for masked language models, as a pure function of (seed, view, sample, place)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_lightning.data.counter import uniform
from kd_lightning.data.targets import IGNORE


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    index: Tensor,
    *,
    seed: int,
    view: int,
    mask_token_id: int,
    random_ids: Tensor,
    probability: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Hide tokens that are to be guessed: of the chosen, 80 % become the mask, 10 % a random token, 10 % stay.

    A token's fate does not depend on the batch it is in, nor on how it is padded.

    Args:
        input_ids: Tokens padded on the right, (B, T) int64.
        maskable: Which may be chosen: neither padding nor special tokens, (B, T) bool.
        index: Which sample, (B,) int64.
        seed: Any integer.
        view: Which look at the sample.
        mask_token_id: The mask.
        random_ids: The tokens that a random one is taken from, (V,) int64.
        probability: Of being chosen.

    Returns:
        The tokens to be shown and the target (-100 where nothing is asked), (B, T) int64 each.

    References:
        Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, NAACL 2019, section 3.1.
    """
    place = torch.arange(input_ids.shape[1], device=input_ids.device) * 3

    def draw(which: int) -> Tensor:
        return uniform(seed, view, index[:, None], place + which)

    chosen = maskable & (draw(0) < probability)
    kind = draw(1)
    random = random_ids[(draw(2) * len(random_ids)).long().clamp(max=len(random_ids) - 1)]
    shown = torch.where(chosen & (kind < 0.8), mask_token_id, input_ids)
    shown = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), random, shown)
    return shown, torch.where(chosen, input_ids, IGNORE)
