"""Function-consistent feature distillation (Liu et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.kd import kd_loss
from kd_lightning.losses.ops.bridges import Bridge, check_chain, continue_from
from kd_lightning.losses.ops.common import full_precision
from kd_lightning.losses.ops.layers import check_built, to_like
from kd_lightning.losses.ops.maps import as_maps, pair_maps


@full_precision
def fcfd_loss(
    features: Sequence[Sequence[Tensor]],
    teacher: Sequence[Tensor],
    mixed_logits: Sequence[Tensor],
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    feature_weight: float = 0.02,
    mixed_weight: float = 1.0,
) -> Tensor:
    r"""Features must look like the teacher's and do the same in the later layers of either network.

    .. math:: \lambda \sum_k \sum_{f \in \mathcal F_k} \operatorname{mean} (f - F^t_k)^2
        + \mu \sum_{p} T^2 \operatorname{KL}(p^t \Vert p^{(p)})

    where F_k holds the bridged student feature of stage k (appearance) and the outputs of the teacher's stage k on
    bridged student features from below (function); at the last stage the pooled maps are compared too. The sum over p
    runs over the mixed paths: student, bridge, later teacher; and teacher, bridge, later student.

    References:
        [0] Liu, Kan, Shan, Chen. Function-Consistent Feature Distillation. ICLR 2023.
        [1] LiuDongyang6/FCFD, classification/cifar/main.py and classification/models/meta.py

    Differs from [1]: the teacher is in eval mode, in [1] its batch norms normalise by the batch; mixed paths through
    the student leave its running statistics alone, where [1] keeps separate ones for each path.

    Args:
        features: ``features[k]``: all maps that stand for the teacher's stage k, each (B, C_k, H_k, W_k).
        teacher: Teacher maps.
        mixed_logits: Logits (B, C) at the end of each mixed path.
        teacher_logits: (B, C).
        temperature: Softening T of the mixed paths' distributions.
        feature_weight: Weight lambda of the squared errors.
        mixed_weight: Weight mu of the mixed paths.

    Returns:
        Scalar; 0 where all agree.

    Example:
        >>> import torch
        >>> x, z = torch.ones(2, 3, 4, 4), torch.eye(2)
        >>> fcfd_loss([[x]], [x], [z], z).item()
        0.0
    """
    targets = [t.detach() for t in teacher]
    errors = [F.mse_loss(f, t) for row, t in zip(features, targets, strict=True) for f in row]
    pooled = F.relu(targets[-1]).mean((2, 3))
    errors += [F.mse_loss(F.relu(f).mean((2, 3)), pooled) for f in features[-1]]
    loss = feature_weight * torch.stack(errors).sum()
    for logits in mixed_logits:
        loss = loss + mixed_weight * kd_loss(logits, teacher_logits, temperature=temperature)
    return loss


class FCFDLoss(nn.Module):
    """Module form of :func:`fcfd_loss`: bridges both ways, and some random mixed paths in each step.

    Args:
        temperature: See :func:`fcfd_loss`.
        feature_weight: See :func:`fcfd_loss`.
        mixed_weight: See :func:`fcfd_loss`.
        paths: Mixed paths drawn in each step, of the 2 (S - 1) that S stages have.
        warmup_epochs: ``feature_weight`` grows over so many epochs.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        feature_weight: float = 0.02,
        mixed_weight: float = 1.0,
        paths: int = 2,
        warmup_epochs: int = 20,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.mixed_weight = mixed_weight
        self.paths = paths
        self.warmup_epochs = warmup_epochs
        self.to_teacher = nn.ModuleList()
        self.to_student = nn.ModuleList()

    def build(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_stages: Sequence[nn.Module],
        teacher_stages: Sequence[nn.Module],
        student_head: nn.Module,
        teacher_head: nn.Module,
        epoch: int = 0,
    ) -> None:
        """Create the bridges, and check that both networks can be run from the middle."""
        check_chain(student, student_logits, student_stages, student_head, "student")
        check_chain(teacher, teacher_logits, teacher_stages, teacher_head, "teacher")
        pairs = pair_maps(student, teacher)
        self.to_teacher = nn.ModuleList(to_like(Bridge(s, t), s) for s, t in pairs)
        self.to_student = nn.ModuleList(to_like(Bridge(t, s), s) for s, t in pairs[:-1])

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_stages: Sequence[nn.Module],
        teacher_stages: Sequence[nn.Module],
        student_head: nn.Module,
        teacher_head: nn.Module,
        epoch: int = 0,
    ) -> Tensor:
        """See :func:`fcfd_loss`.

        Args:
            student: Maps (B, C, H, W) after each stage of the student.
            teacher: Maps after as many stages of the teacher.
            student_logits: Read by ``build`` only.
            teacher_logits: (B, C).
            student_stages: The modules whose outputs the maps are.
            teacher_stages: The same of the teacher.
            student_head: The student's linear classifier.
            teacher_head: The teacher's linear classifier.
            epoch: Epochs done, for the warm-up.
        """
        ours, theirs = as_maps(student, "student"), [t.detach() for t in as_maps(teacher, "teacher")]
        check_built(self.to_teacher, len(ours))
        features = [[bridge(s)] for bridge, s in zip(self.to_teacher, ours, strict=True)]
        logits, unused = [], dict(enumerate(self.to_student))
        for path in self._draw(len(ours)):
            stage, from_student = path // 2, path % 2 == 0
            if from_student:
                later, end = continue_from(features[stage][0], teacher_stages[stage + 1 :], teacher_head, frozen=True)
                for row, feature in zip(features[stage + 1 :], later, strict=True):
                    row.append(feature)
            else:
                bridged = unused.pop(stage)(theirs[stage])
                _, end = continue_from(bridged, student_stages[stage + 1 :], student_head, frozen=False)
            logits.append(end)
        warm = min(1.0, (epoch + 1) / max(self.warmup_epochs, 1))
        loss = fcfd_loss(
            features,
            theirs,
            logits,
            teacher_logits,
            temperature=self.temperature,
            feature_weight=self.feature_weight * warm,
            mixed_weight=self.mixed_weight,
        )
        # Distributed training waits for a gradient of every parameter, also of bridges that no path took.
        return loss + sum(0.0 * p.sum() for bridge in unused.values() for p in bridge.parameters())

    def _draw(self, stages: int) -> list[int]:
        """Numbers of the mixed paths of this step: twice the stage after which they switch, plus 1 from the teacher."""
        candidates = 2 * (stages - 1)
        drawn: list[int] = torch.randperm(candidates)[: self.paths].tolist()
        return drawn
