"""What logits of classes are worth: by themselves, by class, beside others'."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.measures.ranks import rank_correlation
from kd_lightning.measures.reliability import BINS


def classification_metrics(logits: Tensor, target: Tensor, num_classes: int) -> dict[str, float]:
    """Accuracy, likelihood and calibration.

    Args:
        logits: (N, C).
        target: (N,) classes.
        num_classes: C.

    Returns:
        `top1`, `top5` (only where C > 5; below it would say little), `macro_f1`, `ece` (15 bins, l1), all in [0, 1],
        and `nll` in nats.

    Raises:
        ValueError: if the last dimension of the logits is not `num_classes`.
    """
    from torchmetrics.functional import classification as tm

    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} do not fit {num_classes} classes: need (N, {num_classes})."
        )
    logits = logits.float()
    # torchmetrics takes what happens to lie in [0, 1] for probabilities, so it gets real ones.
    probabilities = logits.softmax(dim=1)
    result = {
        "top1": tm.multiclass_accuracy(logits, target, num_classes, average="micro"),
        "macro_f1": tm.multiclass_f1_score(logits, target, num_classes, average="macro"),
        "nll": F.cross_entropy(logits, target),
        "ece": tm.multiclass_calibration_error(probabilities, target, num_classes, n_bins=BINS, norm="l1"),
    }
    if num_classes > 5:
        result["top5"] = tm.multiclass_accuracy(logits, target, num_classes, average="micro", top_k=5)
    return {name: float(value) for name, value in result.items()}


def class_agreement(logits_a: Tensor, logits_b: Tensor) -> dict[str, float]:
    """How far a student (a) follows a teacher (b); both (N, C).

    Returns:
        `agreement` (share of equal top-1 answers), `kl` (mean KL(teacher || student) at temperature 1, nats) and
        `rank_correlation` (mean Spearman correlation of the two orders of the classes; nan for a single class).
    """
    student, teacher = logits_a.float().log_softmax(1), logits_b.float().log_softmax(1)
    return {
        "agreement": float((student.argmax(1) == teacher.argmax(1)).float().mean()),
        "kl": float(F.kl_div(student, teacher, log_target=True, reduction="batchmean")),
        "rank_correlation": rank_correlation(logits_a, logits_b),
    }


def per_class(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy of each class (C,), nan where it has no sample, and the number of its samples (C,)."""
    classes = logits.shape[1]
    support = torch.bincount(target, minlength=classes)
    right = torch.bincount(target[logits.argmax(1) == target], minlength=classes)
    return right / support.float(), support


def reordered(logits: Tensor, target: Tensor, least: int = 10) -> list[int] | None:
    """The order of outputs that fits the targets where it is plainly another one than that of the classes.

    Args:
        logits: (N, C).
        target: (N,) classes.
        least: So many more answers must be right; below it may be chance.

    Returns:
        The output that answers each class, (C,); None where the order is right, or where a class that would move is
        not answered by its new output in more than half of its samples: such a net is poor, not reordered.
    """
    from scipy.optimize import linear_sum_assignment

    classes = logits.shape[1]
    counts = torch.bincount(target * classes + logits.argmax(1), minlength=classes * classes).view(classes, classes)
    order = torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
    own, support = torch.arange(classes), counts.sum(1)
    # Classes without a sample take what is left over.
    moved = (order != own) & (support > 0)
    gained = counts[own, order][moved].sum() - counts[own, own][moved].sum()
    plain = (2 * counts[own, order] > support)[moved].all()
    return order.tolist() if int(gained) >= least and bool(plain) else None


def won_and_lost(a: Tensor, b: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The `index` of samples that b gets right and a wrong (won), and the other way round (lost); a, b (N,) bool."""
    return index[b & ~a], index[a & ~b]
