"""Feature distillation for vision transformers (Yang et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, conv1x1, to_like
from kd_lightning.losses.ops.maps import Maps, as_map, pair_maps


@full_precision
def vitkd_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    student_deep: Tensor,
    teacher_deep: Tensor,
    masked: Tensor,
    *,
    alpha: float = 3e-5,
    beta: float = 3e-6,
    ratio: float = 0.5,
) -> Tensor:
    r"""Mimic the shallow layers; on the deep layer generate the teacher's tokens where the student's were masked.

    .. math:: \frac{\alpha}{B} \sum_l \lVert F^s_l - F^t_l \rVert^2
        + \frac{\beta}{\lambda B} \sum_{b} \sum_{i \in M_b} \lVert G(F^s)_{bi} - F^t_{bi} \rVert^2

    References:
        [0] Yang, Li, Zeng, Li, Yuan, Li. ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation. 2022.
        [1] yzd-v/cls_KD, mmcls/models/dis_losses/vitkd.py

    Differs from [1]: the teacher is detached inside. [1] takes the first two blocks and the last, and adds NKD for its
    best numbers (the term ``nkd``).

    Args:
        student: Aligned maps of the shallow layers, each (B, D, H, W).
        teacher: Teacher maps of the shallow layers, same shapes.
        student_deep: Generated map of the deep layer, (B, D, H, W).
        teacher_deep: Teacher map of the deep layer, same shape.
        masked: 1 where the student's token was masked, else 0, (B, 1, H, W).
        alpha: Weight of the mimicking.
        beta: Weight of the generation.
        ratio: Masked share lambda, by which the generation is divided.

    Returns:
        Scalar: summed over the maps, mean over the batch.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
        >>> vitkd_loss([zero], [one], zero, one, one[:, :1], alpha=1.0, beta=1.0).item()
        24.0
    """
    batch = student_deep.shape[0]
    mimicking = torch.stack([(s - t.detach()).square().sum() for s, t in zip(student, teacher, strict=True)]).sum()
    generation = ((student_deep - teacher_deep.detach()) * masked).square().sum()
    return alpha * mimicking / batch + beta * generation / (ratio * batch)


class ViTKDLoss(nn.Module):
    """Module form of :func:`vitkd_loss` with its alignments, mask token and generator.

    Class and other extra tokens are left out. Where the grids of patches differ the larger is average-pooled, so that a
    convolutional teacher works too.

    Args:
        alpha: See :func:`vitkd_loss`.
        beta: See :func:`vitkd_loss`.
        ratio: Share of the deep layer's tokens that is masked, in (0, 1).
    """

    align_deep: nn.Module
    mask_token: nn.Parameter
    generation: nn.Sequential

    def __init__(self, alpha: float = 3e-5, beta: float = 3e-6, ratio: float = 0.5) -> None:
        super().__init__()
        if not 0 < ratio < 1:
            raise ValueError(f"ratio is the masked share and must be between 0 and 1, not {ratio}.")
        self.alpha = alpha
        self.beta = beta
        self.ratio = ratio
        self.align = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps, student_deep: Tensor, teacher_deep: Tensor) -> None:
        """Create the layers from the widths of the tokens."""
        deep, target = as_map(student_deep), as_map(teacher_deep)
        width = target.shape[1]
        # A 1x1 convolution of the grid is a linear map of each token.
        self.align = nn.ModuleList(conv1x1(s, t, bias=True) for s, t in pair_maps(student, teacher))
        self.align_deep = conv1x1(deep, target, bias=True)
        generation = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)
        )
        self.generation = to_like(generation, deep)
        self.mask_token = to_like(nn.ParameterList([torch.zeros(1, width, 1, 1)]), deep)[0]

    def forward(
        self,
        student: Maps,
        teacher: Maps,
        student_deep: Tensor,
        teacher_deep: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """See :func:`vitkd_loss`.

        Args:
            student: Tokens (B, N, D_s) of the shallow layers.
            teacher: Tokens (B, N, D_t) of the teacher's shallow layers.
            student_deep: Tokens of the student's deep layer.
            teacher_deep: Tokens of the teacher's deep layer.
            noise: One value for each patch (B, H * W); the patches with the largest are masked. Drawn inside where
                None.
        """
        pairs = [match_spatial(*pair) for pair in pair_maps(student, teacher)]
        check_built(self.align, len(pairs))
        deep, target = match_spatial(as_map(student_deep), as_map(teacher_deep).detach())
        noise = torch.rand(deep.shape[0], deep.shape[2:].numel(), device=deep.device) if noise is None else noise
        masked = self._masked(noise).view(-1, 1, *deep.shape[2:])
        kept = torch.where(masked, self.mask_token, self.align_deep(deep))
        return vitkd_loss(
            [align(s) for align, (s, _) in zip(self.align, pairs, strict=True)],
            [t for _, t in pairs],
            self.generation(kept),
            target,
            masked,
            alpha=self.alpha,
            beta=self.beta,
            ratio=self.ratio,
        )

    def _masked(self, noise: Tensor) -> Tensor:
        """True for all but the ``int(N * (1 - ratio))`` patches with the smallest noise of each sample, (B, N)."""
        rank = noise.argsort(1).argsort(1)
        return rank >= int(noise.shape[1] * (1 - self.ratio))
