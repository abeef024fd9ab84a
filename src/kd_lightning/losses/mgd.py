"""Masked generative distillation (Yang et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import conv1x1, to_like
from kd_lightning.losses.ops.maps import as_map, check_channels


@full_precision
def mgd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared error between the map generated from the student's masked one and the teacher's map.

    .. math:: \frac{1}{B} \sum_{bchw} \bigl(G(\operatorname{align}(F^s) \odot M) - F^t\bigr)^2

    References:
        [0] Yang, Li, Shao, Shi, Yuan, Yuan. Masked Generative Distillation. ECCV 2022.
        [1] yzd-v/MGD, cls/mmcls/distillation/losses/mgd.py

    Differs from [1]: the teacher is detached inside; the published factor 7e-5 is the weight of the term.

    Args:
        student: Generated map G(...), (B, C, H, W); :class:`MGDLoss` owns the generator.
        teacher: Teacher map, same shape.

    Returns:
        Scalar: summed over the map, mean over the batch.

    Raises:
        ValueError: Different numbers of channels.

    Example:
        >>> import torch
        >>> mgd_loss(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)).item()
        4.0
    """
    check_channels(student, teacher, "MGDLoss")
    return (student - teacher.detach()).square().sum() / student.shape[0]


class MGDLoss(nn.Module):
    """Module form of :func:`mgd_loss` with its parts: alignment of the channels, random mask, generator.

    Args:
        ratio: Share of the student's map that is masked, in [0, 1).
        mask: ``channel`` drops whole channels (classification in [1]), ``spatial`` drops positions (the paper's
            figure; detection and segmentation in [1]).
    """

    align: nn.Module
    generation: nn.Sequential

    def __init__(self, ratio: float = 0.15, mask: str = "channel") -> None:
        super().__init__()
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio is the masked share and must be in [0, 1), not {ratio}.")
        if mask not in ("channel", "spatial"):
            raise ValueError(f"mask must be 'channel' or 'spatial', not '{mask}'.")
        self.ratio = ratio
        self.mask = mask

    def build(self, student: Tensor, teacher: Tensor) -> None:
        """Create alignment and generator from the shapes of the maps."""
        student, teacher = as_map(student), as_map(teacher)
        width = teacher.shape[1]
        self.align = conv1x1(student, teacher, bias=True)
        generation = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)
        )
        self.generation = to_like(generation, student)

    def noise(self, aligned: Tensor) -> Tensor:
        """Uniform noise from the global generator that decides what is masked: (B, C, 1, 1) or (B, 1, H, W)."""
        batch, channels, height, width = aligned.shape
        shape = (batch, channels, 1, 1) if self.mask == "channel" else (batch, 1, height, width)
        return torch.rand(shape, device=aligned.device)

    def forward(self, student: Tensor, teacher: Tensor, noise: Tensor | None = None) -> Tensor:
        """See :func:`mgd_loss`.

        Args:
            student: Student map (B, C_s, H, W) or tokens (B, N, C_s).
            teacher: Teacher map (B, C, H', W') or tokens; the larger map is average-pooled.
            noise: Values in [0, 1) in the shape of :meth:`noise`; a place is kept where they are at least ``ratio``.
                Drawn inside where None.
        """
        student, teacher = match_spatial(as_map(student), as_map(teacher).detach())
        aligned = self.align(student)
        noise = self.noise(aligned) if noise is None else noise
        return mgd_loss(self.generation(aligned * (noise >= self.ratio)), teacher)
