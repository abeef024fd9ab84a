"""Contrastive representation distillation (Tian et al., 2020)."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.losses.ops.common import full_precision

EPS = 1e-7
MODES = ("exclude_class", "exact")


@full_precision
def _scores(embedding: Tensor, memory: Tensor, contrast_idx: Tensor, temperature: float) -> Tensor:
    """(B, D) against the rows ``contrast_idx`` (B, 1 + K) of a memory (N, D): cosines over the temperature."""
    # All N scores and a selection: less memory than B * K copies of rows.
    return (F.normalize(embedding, dim=1) @ memory.T).gather(1, contrast_idx) / temperature


def _nce(log_p: Tensor, num_samples: int) -> Tensor:
    """Noise-contrastive loss of log densities (B, 1 + K), the positive in column 0; mean over B."""
    noise = (log_p.shape[1] - 1) / num_samples
    log_sum = torch.logaddexp(log_p, log_p.new_tensor(math.log(noise + EPS)))
    right = log_p[:, 0] - log_sum[:, 0]
    wrong = math.log(noise) - log_sum[:, 1:]
    return -(right.sum() + wrong.sum()) / max(len(log_p), 1)


@full_precision
def crd_loss(
    student: Tensor,
    teacher: Tensor,
    memory_student: Tensor,
    memory_teacher: Tensor,
    contrast_idx: Tensor,
    normalisers: Tensor,
    *,
    temperature: float = 0.07,
) -> Tensor:
    r"""Noise-contrastive estimation of which memory row belongs to the same sample, in both directions.

    .. math:: L = L_{s \to t} + L_{t \to s}, \qquad
        L_{s \to t} = -\frac{1}{B} \sum_b \left[ \log \frac{p_{b0}}{p_{b0} + K/N + \epsilon}
        + \sum_{k=1}^{K} \log \frac{K/N}{p_{bk} + K/N + \epsilon} \right], \qquad
        p_{bk} = \frac{1}{Z} e^{\langle s_b,\, m^t_{bk} \rangle / T}

    References:
        [0] Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020.
        [1] HobbitLong/RepDistiller, crd/criterion.py and crd/memory.py

    Differs from [1]: computed in log space. The teacher is not detached here: its projection learns.

    Args:
        student: Projected student features, (B, D); normalised inside.
        teacher: Projected teacher features, (B, D); normalised inside.
        memory_student: Student features of all N training samples, (N, D), unit rows.
        memory_teacher: Teacher features of all N training samples, (N, D), unit rows.
        contrast_idx: Rows to compare with, (B, 1 + K), K > 0; column 0 is the sample's own.
        normalisers: Z of student and teacher anchors, (2,).
        temperature: Temperature T of the scores.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> x, rows = torch.eye(2), torch.tensor([[0, 1], [1, 0]])
        >>> round(crd_loss(x, x, x, x, rows, torch.tensor([1e6, 1e6])).item(), 3)
        0.544
    """
    log_z = normalisers.to(student.dtype).log()
    from_student = _scores(student, memory_teacher, contrast_idx, temperature) - log_z[0]
    from_teacher = _scores(teacher, memory_student, contrast_idx, temperature) - log_z[1]
    return _nce(from_student, len(memory_student)) + _nce(from_teacher, len(memory_student))


def draw_negatives(index: Tensor, k: int, num_samples: int, labels: Tensor | None = None) -> Tensor:
    """Rows (B, K) of other samples, uniform with replacement, by skipping what must not be drawn.

    References:
        [1] HobbitLong/RepDistiller, dataset/cifar100.py (negatives of other classes)

    Args:
        index: The samples, (B,).
        k: Negatives of each sample. Without labels and with k = num_samples - 1 all others are taken, each once.
        num_samples: Number N of training samples.
        labels: Class of every training sample, (N,), -1 where it is not known; its class is left out too. None: only
            the sample itself is.

    Raises:
        ValueError: Where a class leaves nothing to draw.
    """
    if labels is None:
        if k == num_samples - 1:
            others = torch.arange(k, device=index.device).expand(len(index), -1)
            return others + (others >= index.unsqueeze(1)).long()
        order, first, excluded = None, index, torch.ones_like(index)
    else:
        ranked, order = labels.sort(stable=True)  # a class is one run of neighbours
        first = torch.searchsorted(ranked, labels[index])
        excluded = torch.searchsorted(ranked, labels[index], right=True) - first
    left = (num_samples - excluded).unsqueeze(1)
    if bool((left < 1).any()):
        raise ValueError("CRD has no negatives: all training samples are of one class. Set the loss's mode: exact.")
    draws = torch.randint(2**62, (len(index), k), device=index.device) % left  # the remainder's bias is below 1e-12
    draws = draws + (draws >= first.unsqueeze(1)).long() * excluded.unsqueeze(1)
    return draws if order is None else order[draws]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gather(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient; their numbers may differ."""
    if not _distributed():
        return rows
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = [int(size) for size in sizes]
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded.contiguous())
    return torch.cat([part[:count] for part, count in zip(everyone, counts, strict=True)])


class CRDLoss(nn.Module):
    """Embeddings, memories of all training samples and :func:`crd_loss`.

    The memories, the normalisers (estimated in the first step, then kept) and the classes seen so far are buffers and
    so in the checkpoint. They change in training mode only.

    Several processes: every process contrasts its own samples with the memories, which gathered embeddings and indices
    keep identical on all of them; the mean of the gradients is that of one process on the global batch. The draws of
    negatives differ between processes, which changes no memory. A sample that comes twice in one global batch is
    written once.

    Args:
        dim: Width of the embeddings.
        negatives: Negatives K of every sample, at most the number of training samples less one.
        temperature: Temperature of the scores.
        momentum: Share of the old row when a memory is updated.
        mode: ``exclude_class``: negatives are samples of other classes, as published; needs ``target``, and learns the
            classes as they come (in the first epoch a row not yet seen counts as another class; it is random then).
            ``exact``: negatives are all samples but the sample itself.

    Differs from [1]: negatives are drawn here, with replacement, instead of by the data set.

    Raises:
        ValueError: Where the mode is unknown.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    normalisers: Tensor
    labels: Tensor

    def __init__(
        self,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        mode: str = "exclude_class",
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"CRDLoss has no mode '{mode}'; choose one of {', '.join(MODES)}.")
        self.dim = dim
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.mode = mode

    def build(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        num_samples: int,
        target: Tensor | None = None,
        contrast_idx: Tensor | None = None,
    ) -> None:
        """Create embeddings and memories.

        Raises:
            ValueError: Where there are fewer than two training samples.
        """
        if num_samples < 2:
            raise ValueError(f"CRD contrasts training samples, but data.num_samples is {num_samples}.")
        self.embed_student = nn.Linear(student.flatten(1).shape[1], self.dim)
        self.embed_teacher = nn.Linear(teacher.flatten(1).shape[1], self.dim)
        bound = 1 / math.sqrt(self.dim / 3)  # rows of about unit length
        for name in ("memory_student", "memory_teacher"):
            self.register_buffer(name, torch.empty(num_samples, self.dim).uniform_(-bound, bound))
        self.register_buffer("normalisers", torch.full((2,), -1.0))
        self.register_buffer("labels", torch.full((num_samples,), -1))

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        num_samples: int,
        target: Tensor | None = None,
        contrast_idx: Tensor | None = None,
    ) -> Tensor:
        """See :func:`crd_loss`.

        Args:
            student: Student features, (B, D_s).
            teacher: Teacher features, (B, D_t).
            index: Which training sample each is, (B,), from 0 to ``num_samples`` - 1.
            num_samples: Number of training samples.
            target: Classes, (B,); rows of -100 are left out. Needed in the mode ``exclude_class``.
            contrast_idx: Own row and negatives, (B, 1 + K), instead of drawing them.
        """
        self._check(index, num_samples, target)
        if target is not None and bool((target < 0).any()):
            valid = target >= 0
            student, teacher, index, target = student[valid], teacher[valid], index[valid], target[valid]
            contrast_idx = None if contrast_idx is None else contrast_idx[valid]
        student = self.embed_student(student.flatten(1))
        teacher = self.embed_teacher(teacher.detach().flatten(1))

        labels = None
        if self.mode == "exclude_class" and target is not None:
            labels = self.labels if self.training else self.labels.clone()
            labels[_gather(index)] = _gather(target)
        if contrast_idx is None:
            k = min(self.negatives, num_samples - 1)
            contrast_idx = torch.cat([index.unsqueeze(1), draw_negatives(index, k, num_samples, labels)], dim=1)
        normalisers = self._normalisers(student, teacher, contrast_idx)
        # The backward pass needs the memories of before the update.
        memories = self.memory_student.clone(), self.memory_teacher.clone()
        if self.training:
            self._update(student, teacher, index)
        return crd_loss(student, teacher, *memories, contrast_idx, normalisers, temperature=self.temperature)

    def _check(self, index: Tensor, num_samples: int, target: Tensor | None) -> None:
        rows = len(self.memory_student)
        highest = int(index.max()) if len(index) else 0
        if num_samples != rows or highest >= rows:
            raise ValueError(
                f"The memory of CRD has a row for each of {rows} training samples, but data.num_samples is"
                f" {num_samples} and the batch holds the index {highest}: train with the data it was built for."
            )
        if target is None and self.mode == "exclude_class":
            raise ValueError("CRD in mode exclude_class needs target: batch.target; or set mode: exact.")

    @torch.no_grad()
    def _normalisers(self, student: Tensor, teacher: Tensor, contrast_idx: Tensor) -> Tensor:
        """Z of both directions: N times the mean of the first step's exponentials, over all processes."""
        if bool((self.normalisers > 0).all()):
            return self.normalisers
        pairs = ((student, self.memory_teacher), (teacher, self.memory_student))
        sums = [_scores(e.to(m), m, contrast_idx, self.temperature).exp().sum() for e, m in pairs]
        count = sums[0].new_tensor(contrast_idx.numel())
        totals = torch.stack([*sums, count])
        if _distributed():
            dist.all_reduce(totals)
        if totals[2] == 0:  # every row of every process is ignored
            return torch.ones_like(self.normalisers)
        estimate = (totals[:2] / totals[2] * len(self.memory_student)).to(self.normalisers.dtype)
        if self.training:
            self.normalisers.copy_(estimate)
        return estimate

    @torch.no_grad()
    def _update(self, student: Tensor, teacher: Tensor, index: Tensor) -> None:
        """Move the rows of the global batch towards their new embeddings."""
        index = _gather(index)
        again = (index.unsqueeze(0) == index.unsqueeze(1)).triu(1).any(1)  # a later row of the same sample
        for memory, embedding in ((self.memory_student, student), (self.memory_teacher, teacher)):
            new = _gather(F.normalize(embedding.to(memory.dtype), dim=1))
            rows, new = index[~again], new[~again]
            memory[rows] = F.normalize(self.momentum * memory[rows] + (1 - self.momentum) * new, dim=1)
