"""Cross-entropy of tokens: masked and causal language modelling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses._common import full_precision

IGNORE = -100


@full_precision
def token_ce_loss(student: Tensor, target: Tensor) -> Tensor:
    r"""Negative log-likelihood of the target tokens: the hard part of language-model distillation.

    .. math:: -\operatorname{mean}_{\text{tokens with } y \ne -100} \log p_s(y)

    References:
        [0] Devlin, Chang, Lee, Toutanova. BERT: Pre-training of Deep Bidirectional Transformers. NAACL 2019.
        [1] huggingface/transformers, loss/loss_utils.py (ForMaskedLMLoss, ForCausalLMLoss)

    Differs from [1]: no shift inside (the call has done it); 0 instead of nan where no token is to be predicted.

    Args:
        student: Student logits, (..., V).
        target: Tokens, (...) int64; -100 is ignored.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: Where the target is not one token for each position.

    Example:
        >>> import torch
        >>> round(token_ce_loss(torch.zeros(1, 2, 4), torch.tensor([[3, -100]])).item(), 4)  # log 4
        1.3863
    """
    if target.shape != student.shape[:-1]:
        raise ValueError(
            f"target {tuple(target.shape)} must have one token for each position of the logits {tuple(student.shape)}."
        )
    total = F.cross_entropy(student.flatten(0, -2), target.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


class TokenCELoss(nn.Module):
    """Module form of :func:`token_ce_loss`."""

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """See :func:`token_ce_loss`."""
        return token_ce_loss(student, target)
