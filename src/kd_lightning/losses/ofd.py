"""Overhaul of feature distillation: margin ReLU and partial distance (Heo et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import Maps, check_same_shape, pair_maps


def margin_from_norm(norm: nn.Module) -> Tensor:
    r"""Expected negative response of a batch norm's channels, the margin m of :func:`ofd_loss`.

    .. math:: m_c = E[x \mid x < 0], \qquad x \sim \mathcal{N}(\beta_c, \gamma_c^2)

    and -3|gamma| where x is almost never negative (probability at most 0.001).

    References:
        [0] Heo et al. A Comprehensive Overhaul of Feature Distillation. ICCV 2019, section 3.2.
        [1] clovaai/overhaul-distillation, CIFAR-100/distiller.py (get_margin_from_BN)

    Args:
        norm: Batch norm whose output is the map before the activation; without affine parameters it counts as (1, 0).

    Returns:
        Margins, (C,), float32.

    Raises:
        ValueError: Where the module has no statistics per channel.

    Example:
        >>> import torch
        >>> margin_from_norm(torch.nn.BatchNorm2d(1))
        tensor([-0.7979])
    """
    channels = getattr(norm, "num_features", None)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if not (isinstance(weight, Tensor) and isinstance(bias, Tensor)):
        if channels is None:
            raise ValueError(
                f"ofd: a batch norm is needed for the margin, not {type(norm).__name__}. Name the batch norms before"
                " the tapped activations in the term's input `norms`, or leave it out to measure the margins."
            )
        weight, bias = torch.ones(channels), torch.zeros(channels)
    std = (
        weight.detach().double().abs().clamp(min=1e-12)
    )  # gamma of 0 is a constant channel: its margin is min(beta, 0)
    mean = bias.detach().double()
    z = -mean / std
    log_probability = torch.special.log_ndtr(z)
    tail = torch.exp(-z.square() / 2 - log_probability) / math.sqrt(2 * math.pi)
    return torch.where(log_probability.exp() > 0.001, mean - std * tail, -3 * std).float()


def _measured_margin(teacher: Tensor) -> Tensor:
    """Mean of each channel's negative responses in this batch, (C,); 0 where there are none."""
    negative = teacher < 0
    return torch.where(negative, teacher, 0).sum((0, 2, 3)) / negative.sum((0, 2, 3)).clamp(min=1)


@full_precision
def ofd_loss(student: Maps, teacher: Maps, margins: Maps | None = None, *, reduction: str = "batchmean") -> Tensor:
    r"""Partial squared distance to the teacher's margin-rectified pre-activations.

    .. math:: \sum_{i=1}^{n} \frac{1}{2^{n-i} B} \sum_{bchw} (s - t')^2\, \mathbb{1}[s > t' \text{ or } t' > 0],
        \qquad t' = \max(t, m_c)

    References:
        [0] Heo, Kim, Yun, Park, Kwak, Choi. A Comprehensive Overhaul of Feature Distillation. ICCV 2019.
        [1] clovaai/overhaul-distillation, CIFAR-100/distiller.py

    Differs from [1]: the division by the batch size stands in [1]'s training script (together with 1/1000, the
    published weight); ``reduction="sum"`` leaves it out. Maps of different sizes are pooled to the smaller one.

    Args:
        student: Student's maps before the activation, connected to the teacher's channels, (B, C, H, W), in the order
            of the stages, or one map.
        teacher: Teacher's maps before the activation.
        margins: Margin of every stage, (C,) or (1, C, 1, 1), not positive; None measures the mean of the negative
            responses of each channel in this batch.
        reduction: ``batchmean`` divides by B, ``sum`` does not.

    Returns:
        Scalar; 0 where the student is at the rectified teacher.

    Raises:
        ValueError: Where the numbers of stages, the batch sizes or the channels differ, or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> maps = torch.tensor([-2.0, 1.0]).reshape(1, 2, 1, 1)
        >>> ofd_loss(maps + 1, maps, torch.tensor([-1.0, -1.0])).item()
        1.0
    """
    if reduction not in ("batchmean", "sum"):
        raise ValueError(f"ofd: reduction is '{reduction}'; it must be 'batchmean' or 'sum'.")
    pairs = pair_maps(student, teacher)
    if margins is None:
        margins = [_measured_margin(t) for _, t in pairs]
    given = [margins] if isinstance(margins, Tensor) else list(margins)
    if len(given) != len(pairs):
        raise ValueError(f"ofd: {len(given)} margins for {len(pairs)} stages.")
    losses = []
    for i, ((s, t), margin) in enumerate(zip(pairs, given, strict=True)):
        s, t = match_spatial(s, t)
        check_same_shape(s, t, i)
        t = torch.maximum(t, margin.to(t).reshape(1, -1, 1, 1))
        distance = torch.where((s > t) | (t > 0), s - t, 0).square()
        losses.append(distance.sum() * 2.0 ** (i + 1 - len(pairs)))
    total = torch.stack(losses).sum()
    return total / len(pairs[0][0]) if reduction == "batchmean" else total


class _Connector(nn.Module):
    """From the student's to the teacher's channels, and the teacher's margin."""

    def __init__(self, student: Tensor, teacher: Tensor, norm: nn.Module | None) -> None:
        super().__init__()
        channels = teacher.shape[1]
        self.conv = nn.Conv2d(student.shape[1], channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / channels))
        self.margin: Tensor | None
        self.register_buffer("margin", None if norm is None else margin_from_norm(norm))
        if self.margin is not None and len(self.margin) != channels:
            raise ValueError(
                f"ofd: a map of the teacher has {channels} channels, its batch norm {len(self.margin)}. `norms` must"
                " name the batch norm before each tapped activation, in the order of the maps."
            )
        to_like(self, student)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_s, H, W) to (B, C_t, H, W)."""
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


class OFDLoss(nn.Module):
    """:func:`ofd_loss` with a trained connector (1x1 convolution, batch norm) for every stage.

    The margins are read once, in ``build``, from the teacher's batch norms and kept as buffers.

    Args:
        reduction: See :func:`ofd_loss`.
    """

    def __init__(self, reduction: str = "batchmean") -> None:
        super().__init__()
        self.reduction = reduction
        self.connectors = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps, norms: nn.Module | Sequence[nn.Module] | None = None) -> None:
        """Create the connectors from example maps and the margins from the teacher's batch norms."""
        pairs = pair_maps(student, teacher)
        if norms is None or (isinstance(norms, Sequence) and not norms):
            found: list[nn.Module | None] = [None] * len(pairs)
        else:
            one = isinstance(norms, nn.Module) and not isinstance(norms, nn.ModuleList)
            found = [norms] if one else list(norms)  # type: ignore[list-item, arg-type]
        if len(found) != len(pairs):
            raise ValueError(f"ofd: {len(found)} batch norms in `norms` for {len(pairs)} maps; one for each is needed.")
        self.connectors = nn.ModuleList(_Connector(s, t, norm) for (s, t), norm in zip(pairs, found, strict=True))

    def forward(self, student: Maps, teacher: Maps, norms: nn.Module | Sequence[nn.Module] | None = None) -> Tensor:
        """See :func:`ofd_loss`.

        Args:
            student: Student's maps before the activation, not yet connected.
            teacher: Teacher's maps before the activation.
            norms: The batch norms whose outputs ``teacher`` are, read by ``build``; None or an empty list measures
                the margins in every batch, for a teacher without batch norms there.
        """
        pairs = [match_spatial(s, t) for s, t in pair_maps(student, teacher)]
        check_built(self.connectors, len(pairs))
        connected = [connect(s) for connect, (s, _) in zip(self.connectors, pairs, strict=True)]
        margins = [connect.margin for connect in self.connectors]
        return ofd_loss(
            connected,
            [t for _, t in pairs],
            None if margins[0] is None else margins,  # type: ignore[arg-type]
            reduction=self.reduction,
        )
