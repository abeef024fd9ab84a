"""Flow of the solution procedure: Gram matrices between layers (Yim et al., 2017)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision, match_spatial
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import Maps, as_maps, check_same_shape, pair_maps


def _flow(bottom: Tensor, top: Tensor) -> Tensor:
    """Mean product of two layers' channels, (B, C_top, C_bottom); the larger map is pooled to the smaller."""
    bottom, top = (x.flatten(2) for x in match_spatial(bottom, top))
    return torch.bmm(top, bottom.transpose(1, 2)) / top.shape[2]


@full_precision
def fsp_loss(student: Maps, teacher: Maps) -> Tensor:
    r"""Mean squared difference of the FSP matrices of consecutive maps, summed over the pairs of consecutive maps.

    .. math:: \sum_i \operatorname{mean}_{b,c,c'} (G^s_i - G^t_i)^2, \qquad
        G_{i,c'c} = \operatorname{mean}_{hw} f_{i,c}\, f_{i+1,c'}

    The student's channels must equal the teacher's; sizes are free, because the matrix has none.

    References:
        [0] Yim, Joo, Bae, Kim. A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
            Transfer Learning. CVPR 2017.
        [1] HobbitLong/RepDistiller, distiller_zoo/FSP.py (the authors' code is TensorFlow)

    Differs from [1]: the teacher is detached inside; maps need not be square.

    Args:
        student: Two or more maps of the student in the order of the layers, (B, C_i, H_i, W_i).
        teacher: Maps of the teacher with the same channels.

    Returns:
        Scalar; 0 where the matrices agree.

    Raises:
        ValueError: Where there are fewer than two maps, or the numbers of maps, batch sizes or channels differ.

    Example:
        >>> import torch
        >>> maps = [torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)]
        >>> fsp_loss(maps, [2 * maps[0], maps[1]]).item()
        1.0
    """
    pairs = pair_maps(student, teacher)
    if len(pairs) < 2:
        raise ValueError(
            "fsp compares consecutive maps and needs two or more, for example [student.stem, student.stages]."
        )
    losses = []
    for i, ((s, t), (s_next, t_next)) in enumerate(itertools.pairwise(pairs)):
        flows = _flow(s, s_next), _flow(t, t_next)
        check_same_shape(*flows, i)
        losses.append((flows[0] - flows[1]).square().mean())
    return torch.stack(losses).sum()


class FSPLoss(nn.Module):
    """Module form of :func:`fsp_loss`, for any channels.

    Differs from [1]: where the student's channels are not the teacher's, [1] gives up; here a trained 1x1 convolution
    maps them. With equal channels, as in the paper, there are no parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connectors = nn.ModuleList()

    def build(self, student: Maps, teacher: Maps) -> None:
        """Create the connectors that differing channels need from example maps."""
        self.connectors = nn.ModuleList(
            nn.Identity()
            if s.shape[1] == t.shape[1]
            else to_like(nn.Conv2d(s.shape[1], t.shape[1], kernel_size=1, bias=False), s)
            for s, t in pair_maps(student, teacher)
        )

    def forward(self, student: Maps, teacher: Maps) -> Tensor:
        """See :func:`fsp_loss`."""
        maps = as_maps(student, "student")
        check_built(self.connectors, len(maps))
        return fsp_loss([c(s) for c, s in zip(self.connectors, maps, strict=True)], teacher)
