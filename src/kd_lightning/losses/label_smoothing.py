"""Teachers that nobody trained: label smoothing and the virtual teacher of Tf-KD (Yuan et al., CVPR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.cross_entropy import cross_entropy_loss
from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import split_target


def label_smoothing_loss(
    student: Tensor, target: Tensor, mask: Tensor | None = None, *, smoothing: float = 0.1
) -> Tensor:
    r"""Cross-entropy with a label of which a share is spread over all classes: a uniform teacher.

    .. math:: - \operatorname{mean}_b \sum_c \left((1 - \epsilon) [c = y_b] + \epsilon / C\right) \log p_{bc}

    References:
        [0] Szegedy, Vanhoucke, Ioffe, Shlens, Wojna. Rethinking the Inception Architecture for Computer Vision.
            CVPR 2016.
        [1] torch.nn.functional.cross_entropy(label_smoothing=...)

    Args:
        student: Logits, (..., C).
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        smoothing: The share epsilon, in [0, 1].

    Returns:
        Scalar, in nats.

    Example:
        >>> import torch
        >>> round(label_smoothing_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """
    return cross_entropy_loss(student, target, mask, label_smoothing=smoothing)


@full_precision
def virtual_teacher_loss(
    student: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    confidence: float = 0.99,
    temperature: float = 20.0,
) -> Tensor:
    r"""Divergence from a teacher that is right with a fixed confidence and knows nothing else.

    .. math:: \operatorname{mean}_b \mathrm{KL}\left(\operatorname{softmax}(u_b / T) \| p_b\right), \qquad
        u_{bc} = a \text{ if } c = y_b \text{ else } (1 - a) / (C - 1)

    References:
        [0] Yuan, Tay, Li, Wang, Feng. Revisiting Knowledge Distillation via Label Smoothing Regularization. CVPR 2020.
        [1] yuanli2333/Teacher-free-Knowledge-Distillation, my_loss_function.py: loss_kd_regularization

    Differs from [1]: summed over the classes; [1] averages over them too and multiplies by a constant (100 for
    ResNet-18 on CIFAR-100, which is the same). As in [1] the teacher's probabilities, not logits, are divided by T,
    the student stays at temperature 1, and there is no T squared.

    Args:
        student: Logits, (..., C) with C > 1.
        target: Class, (...), int64; positions with -100 are ignored.
        mask: Valid positions, (...); None for all of them.
        confidence: Probability a that the teacher gives the label.
        temperature: Softening T of the teacher.

    Returns:
        Scalar; 0 where the student equals the virtual teacher.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.99, 0.01]]) / 20
        >>> virtual_teacher_loss(logits, torch.tensor([0])).abs().item() < 1e-6
        True
    """
    target, mask = split_target(target, mask)
    classes = student.shape[-1]
    logits = torch.full_like(student, (1 - confidence) / (classes - 1) / temperature, requires_grad=False)
    logits = logits.scatter(-1, target.unsqueeze(-1), confidence / temperature)
    log_teacher, log_student = F.log_softmax(logits, dim=-1), F.log_softmax(student, dim=-1)
    return masked_mean(F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1), mask)


class LabelSmoothingLoss(nn.Module):
    """Module form of :func:`label_smoothing_loss`."""

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`label_smoothing_loss`."""
        return label_smoothing_loss(student, target, mask, smoothing=self.smoothing)


class VirtualTeacherLoss(nn.Module):
    """Module form of :func:`virtual_teacher_loss`."""

    def __init__(self, confidence: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__()
        self.confidence = confidence
        self.temperature = temperature

    def forward(self, student: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`virtual_teacher_loss`."""
        return virtual_teacher_loss(student, target, mask, confidence=self.confidence, temperature=self.temperature)
