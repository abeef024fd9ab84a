"""Measures of one network: what its logits are worth, and what it costs to run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINS = 15
CHUNK = 4096  # rows sorted at once by the rank correlation, so that 1000 classes need no gigabytes


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


def agreement(logits_a: Tensor, logits_b: Tensor) -> dict[str, float]:
    """How far a student (a) follows a teacher (b); both (N, C).

    Returns:
        `agreement` (share of equal top-1 answers), `kl` (mean KL(teacher || student) at temperature 1, nats) and
        `rank_correlation` (mean Spearman correlation of the two orders of the classes; nan for a single class).
    """
    student, teacher = logits_a.float().log_softmax(1), logits_b.float().log_softmax(1)
    return {
        "agreement": float((student.argmax(1) == teacher.argmax(1)).float().mean()),
        "kl": float(F.kl_div(student, teacher, log_target=True, reduction="batchmean")),
        "rank_correlation": _spearman(logits_a, logits_b),
    }


def token_metrics(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Likelihood and calibration of predicted tokens: logits (N, V), target (N,).

    Returns:
        `nll` in nats per token, `perplexity`, its exponential, and `top1` and `ece` in [0, 1].
    """
    found = reliability_curve(logits, target)
    nll = float(F.cross_entropy(logits.float(), target))
    return {
        "nll": nll,
        "perplexity": math.exp(min(nll, 700.0)),
        "top1": float((logits.argmax(1) == target).float().mean()),
        "ece": float((found.share * (found.confidence - found.accuracy).abs()).sum()),
    }


def regression_metrics(values: Tensor, target: Tensor) -> dict[str, float]:
    """Values (N, 1) beside targets (N,): `mse`, `pearson` and `spearman` (0 where one side is constant)."""
    value, target = values[:, 0].double(), target.double()
    return {
        "mse": float((value - target).square().mean()),
        "pearson": _correlation(value, target),
        "spearman": _correlation(_ranks(value), _ranks(target)),
    }


def value_agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Predicted values (N, 1) of both: `teacher_spearman` and `teacher_mse`."""
    a, b = student[:, 0].double(), teacher[:, 0].double()
    return {"teacher_spearman": _correlation(_ranks(a), _ranks(b)), "teacher_mse": float((a - b).square().mean())}


def embedding_agreement(student: Tensor, teacher: Tensor, pairs: int = 20_000) -> dict[str, float]:
    """Embeddings (N, D) of both: do they point the same way, and do they find the same samples alike?

    Args:
        student: (N, D).
        teacher: (N, D); of another width only the order of the similarities is compared.
        pairs: So many pairs of samples are compared, the same ones every time.

    Returns:
        `cosine`, the mean cosine of a sample's two embeddings (nan where the widths differ), and `rank_correlation`,
        Spearman's, between the similarities of pairs of samples under the student and under the teacher.
    """
    a, b = F.normalize(student.double(), dim=1), F.normalize(teacher.double(), dim=1)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(len(a), (pairs,), generator=generator) for _ in range(2))
    first, second = first[first != second], second[first != second]
    alike = [(side[first] * side[second]).sum(1) for side in (a, b)]
    cosine = float((a * b).sum(1).mean()) if a.shape == b.shape else float("nan")
    return {"cosine": cosine, "rank_correlation": _correlation(_ranks(alike[0]), _ranks(alike[1]))}


def _ranks(values: Tensor) -> Tensor:
    """Ranks with ties at their mean, (N,) double."""
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = count.cumsum(0).double()[place] - (count[place].double() - 1) / 2
    return ranks


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def _spearman(a: Tensor, b: Tensor) -> float:
    classes = a.shape[1]
    if classes < 2:
        return float("nan")
    total = 0.0
    for rows_a, rows_b in zip(torch.split(a, CHUNK), torch.split(b, CHUNK), strict=True):
        gap = rows_a.argsort(1).argsort(1) - rows_b.argsort(1).argsort(1)
        total += float((1 - 6 * gap.double().square().sum(1) / (classes * (classes**2 - 1))).sum())
    return total / len(a)


def per_class(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy of each class (C,), nan where it has no sample, and the number of its samples (C,)."""
    classes = logits.shape[1]
    support = torch.bincount(target, minlength=classes)
    right = torch.bincount(target[logits.argmax(1) == target], minlength=classes)
    return right / support.float(), support


def won_and_lost(logits_a: Tensor, logits_b: Tensor, target: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The `index` of the samples that b gets right and a wrong (won), and the other way round (lost)."""
    a, b = logits_a.argmax(1) == target, logits_b.argmax(1) == target
    return index[b & ~a], index[a & ~b]


@dataclass(frozen=True)
class Reliability:
    """Mean confidence, accuracy and share of the samples of every bin that is not empty; each (bins,)."""

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def reliability_curve(logits: Tensor, target: Tensor, bins: int = BINS) -> Reliability:
    """Accuracy against confidence in equal bins of confidence, as in the calibration error."""
    confidence, answer = logits.float().softmax(1).max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins)
    mean = torch.bincount(which, weights=confidence.double(), minlength=bins) / count
    right = torch.bincount(which, weights=(answer == target).double(), minlength=bins) / count
    full = count > 0
    return Reliability(mean[full], right[full], (count / len(target))[full])


def count_parameters(net: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in net.parameters())


def flops(net: nn.Module, example: Any) -> int:
    """Floating-point operations of one sample: matrix products and convolutions, a multiply-add as two.

    Args:
        net: any module; its mode is restored.
        example: a tensor (B, ...), a dict of them (given as keywords) or a tuple (given in order); the first of the
            batch is used.
    """
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel of nn.MultiheadAttention is not counted
    try:
        with _evaluating(net), FlopCounterMode(display=False) as counter:
            _call(net, _resize(example, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def latency(net: nn.Module, example: Any, batch: int = 1, repeats: int = 20) -> float:
    """Median milliseconds of one forward of `batch` samples, after a warm-up, on the device of `example`.

    Args:
        net: any module; its mode is restored, the number of threads is left as it is.
        example: as for `flops`; its first sample is repeated `batch` times.
        batch: number of samples per forward.
        repeats: number of timed forwards.
    """
    if batch < 1 or repeats < 1:
        raise ValueError(f"Latency needs batch and repeats of at least 1, got {batch} and {repeats}.")
    inputs = _resize(example, batch)
    times = []
    with _evaluating(net):
        for _ in range(max(2, repeats // 5)):
            _call(net, inputs)
        for _ in range(repeats):
            _synchronise()
            start = time.perf_counter()
            _call(net, inputs)
            _synchronise()
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; every module gets its own mode back (a frozen part stays in eval)."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _call(net: nn.Module, inputs: Any) -> None:
    if isinstance(inputs, Mapping):
        net(**inputs)
    elif isinstance(inputs, tuple):
        net(*inputs)
    else:
        net(inputs)


def _resize(example: Any, batch: int) -> Any:
    """The first sample of `example`, `batch` times."""
    if isinstance(example, Mapping):
        return {key: _resize(value, batch) for key, value in example.items()}
    if isinstance(example, tuple):
        return tuple(_resize(value, batch) for value in example)
    if not isinstance(example, Tensor):
        return example
    return example[:1].expand(batch, *example.shape[1:]).contiguous()
