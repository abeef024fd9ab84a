"""Cross-entropy with the labels: what every classifier learns from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import pick, split_target


@full_precision
def cross_entropy_loss(
    student: Tensor, target: Tensor, mask: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    r"""Cross-entropy of the logits with classes or soft labels.

    .. math:: - \operatorname{mean}_b \sum_c \left((1 - \epsilon) y_{bc} + \epsilon / C\right) \log p_{bc}

    References:
        [0] Szegedy, Vanhoucke, Ioffe, Shlens, Wojna. Rethinking the Inception Architecture. CVPR 2016 (smoothing).
        [1] torch.nn.functional.cross_entropy

    Differs from [1]: classes are the last dimension; 0, not nan, where every position is ignored.

    Args:
        student: Logits, (..., C).
        target: Class, (...), int64, -100 is ignored; or soft labels that sum to 1, (..., C), as mixup makes them.
        mask: Valid positions, (...); None for all of them.
        label_smoothing: Share epsilon of the label that is spread over all C classes.

    Returns:
        Scalar, in nats.

    Example:
        >>> import torch
        >>> round(cross_entropy_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """
    log_probability = F.log_softmax(student, dim=-1)
    if target.is_floating_point():
        loss = -(target * log_probability).sum(-1)
    else:
        target, mask = split_target(target, mask)
        loss = -pick(log_probability, target)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_probability.mean(-1)
    return masked_mean(loss, mask)


class CrossEntropyLoss(nn.Module):
    """Module form of :func:`cross_entropy_loss`."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`cross_entropy_loss`."""
        return cross_entropy_loss(student, target, mask, label_smoothing=self.label_smoothing)
