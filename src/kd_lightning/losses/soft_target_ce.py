"""Cross-entropy with the teacher's softened distribution as the target."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, masked_mean
from kd_lightning.losses.ops.logits import logit_pair


@full_precision
def soft_target_ce_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 4.0,
    scale: bool = True,
    standardize: bool = False,
) -> Tensor:
    r"""Cross-entropy of the student under the teacher's softened distribution.

    .. math:: - T^2 \cdot \operatorname{mean}_b \sum_c p^t_{bc} \log p^s_{bc}, \qquad p = \operatorname{softmax}(z / T)

    Its gradient is that of :func:`~kd_lightning.losses.kd.kd_loss`; the value holds the teacher's entropy as well.

    References:
        [0] Yang, Cui, Chen, et al. TextBrewer: An Open-Source Knowledge Distillation Toolkit. ACL 2020 (demo).
        [1] airaria/TextBrewer, src/textbrewer/losses.py: kd_ce_loss

    Differs from [1]: scaled by T squared, as everywhere here; ``scale=False`` gives [1]. Positions can be masked;
    the teacher is detached inside.

    Args:
        student: Student logits, (..., C).
        teacher: Teacher logits, same shape.
        mask: Valid positions, (...); None for all of them.
        temperature: Softening T: a number, or one per position, (...).
        scale: Multiply by T squared.
        standardize: Z-score both logits first.

    Returns:
        Scalar; the mean entropy of the teacher (times T squared) where student and teacher agree.

    Raises:
        ValueError: Where the shapes differ.

    Example:
        >>> import torch
        >>> round(soft_target_ce_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=1.0).item(), 4)
        0.6931
    """
    student, teacher = logit_pair(student, teacher, standardize)
    divisor = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) and temperature.dim() > 0 else temperature
    entropy = -(F.softmax(teacher / divisor, dim=-1) * F.log_softmax(student / divisor, dim=-1)).sum(-1)
    return masked_mean(entropy * temperature**2 if scale else entropy, mask)


class SoftTargetCELoss(nn.Module):
    """Module form of :func:`soft_target_ce_loss`."""

    def __init__(self, temperature: float = 4.0, scale: bool = True, standardize: bool = False) -> None:
        super().__init__()
        self.temperature = temperature
        self.scale = scale
        self.standardize = standardize

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`soft_target_ce_loss`."""
        return soft_target_ce_loss(
            student, teacher, mask, temperature=self.temperature, scale=self.scale, standardize=self.standardize
        )
