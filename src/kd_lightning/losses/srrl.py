"""Softmax regression representation learning (Yang et al., 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.heads import apply_frozen_head
from kd_lightning.losses.ops.layers import to_like
from kd_lightning.losses.ops.norm import BatchNorm


@full_precision
def srrl_loss(student: Tensor, teacher: Tensor, teacher_logits: Tensor, teacher_head: nn.Module) -> Tensor:
    r"""Match the teacher's features, and the logits that the teacher's own classifier gives to the student's features.

    .. math:: \operatorname{mean} (f^s - f^t)^2 + \operatorname{mean} (W^t f^s + b^t - z^t)^2

    References:
        [0] Yang, Martinez, Bulat, Tzimiropoulos. Knowledge Distillation via Softmax Regression Representation
            Learning. ICLR 2021.
        [1] DefangChen/SimKD, models/util.py (SRRL) and helper/loops.py

    Differs from [1]: the teacher's features, logits and classifier are detached inside.

    Args:
        student: Student features in the teacher's space, (B, D); :class:`SRRLLoss` owns the connector.
        teacher: Teacher features, the input of its classifier, (B, D).
        teacher_logits: (B, C).
        teacher_head: The teacher's classifier, a linear layer; it is read and not trained.

    Returns:
        Scalar; 0 where the features agree.

    Raises:
        ValueError: The classifier is not one linear layer of width D.

    Example:
        >>> import torch
        >>> head, features = torch.nn.Linear(4, 3), torch.ones(2, 4)
        >>> srrl_loss(features, features, head(features), head).item()
        0.0
    """
    feature = F.mse_loss(student, teacher.detach())
    return feature + F.mse_loss(apply_frozen_head(teacher_head, student), teacher_logits.detach())


class SRRLLoss(nn.Module):
    """Module form of :func:`srrl_loss` with its connector: 1x1 convolution, batch normalisation, ReLU."""

    transfer: nn.Sequential

    def build(self, student: Tensor, teacher: Tensor, teacher_logits: Tensor, teacher_head: nn.Module) -> None:
        """Create the connector from the widths of the features."""
        width = teacher.shape[1]
        transfer = nn.Sequential(
            nn.Conv2d(student.shape[1], width, 1, bias=False), BatchNorm(width), nn.ReLU(inplace=True)
        )
        self.transfer = to_like(transfer, student)

    def forward(self, student: Tensor, teacher: Tensor, teacher_logits: Tensor, teacher_head: nn.Module) -> Tensor:
        """See :func:`srrl_loss`; ``student`` is (B, D_s), of the student's own width."""
        connected = self.transfer(student[:, :, None, None]).flatten(1)
        return srrl_loss(connected, teacher, teacher_logits, teacher_head)
