"""Does the difference survive a test? Means, intervals, paired tests, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from torch import Tensor

from kd_lightning.measures.format import DASH
from kd_lightning.measures.score import Score
from kd_lightning.tasks.classification import TOP1

Outcome = Literal["gain", "loss", "none", "unknown"]
NO_SPREAD = 1e-9  # scores are fractions of a count: a smaller deviation is rounding


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and two-sided t interval; the last three are None for a single value."""

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PairedTest:
    """A paired two-sided t-test on the differences, with its interval.

    `p` and `cohens_d` (mean over deviation of the differences) are None where the differences have no spread: the
    statistic is then a division by zero, and no p-value is an honest answer.
    """

    difference: Summary
    p: float | None
    cohens_d: float | None


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test: of the samples that only one of two models gets right, how many are whose."""

    won: int
    lost: int
    p: float


def summarise(values: Sequence[float], alpha: float = 0.05) -> Summary:
    """Mean, sample deviation (n - 1) and the (1 - alpha) t interval of the mean.

    Raises:
        ValueError: if there is no value.
    """
    if not values:
        raise ValueError("Nothing to summarise: give at least one value.")
    mean = fmean(values)
    if len(values) < 2:
        return Summary(1, mean)
    from scipy import stats

    sd = stdev(values)
    half = float(stats.t.ppf(1 - alpha / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return Summary(len(values), mean, sd, mean - half, mean + half)


def paired_test(reference: Sequence[float], other: Sequence[float], alpha: float = 0.05) -> PairedTest | None:
    """Test `other - reference` over seeds; entry i of both comes from the same seed. None with fewer than two pairs."""
    differences = [b - a for a, b in zip(reference, other, strict=True)]
    if len(differences) < 2:
        return None
    difference = summarise(differences, alpha)
    assert difference.sd is not None
    if difference.sd < NO_SPREAD:
        return PairedTest(difference, None, None)
    from scipy import stats

    p = float(stats.ttest_rel(other, reference).pvalue)
    return PairedTest(difference, p, difference.mean / difference.sd)


def mcnemar(reference_right: Tensor, other_right: Tensor) -> McNemar:
    """Exact McNemar test of two models on the same samples, from two boolean (N,) tensors.

    One seed at a time: pooling the seeds would count every sample several times, as if the copies were independent.
    """
    from scipy import stats

    won, lost = int((other_right & ~reference_right).sum()), int((reference_right & ~other_right).sum())
    p = float(stats.binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    return McNemar(won, lost, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for testing several arms at once (Holm 1979); None stays None and is not counted."""
    present = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(present):
        highest = max(highest, min(1.0, p * (len(present) - rank)))
        corrected[i] = highest
    return corrected


def outcome(test: PairedTest | None, p: float | None, alpha: float = 0.05, sign: int = 1) -> Outcome:
    """'gain' or 'loss' only where the (corrected) p-value says so; 'unknown' where no test could be made.

    `sign` is -1 where a smaller score is the better one.
    """
    if test is None:
        return "unknown"
    if p is None:
        return "none" if abs(test.difference.mean) < NO_SPREAD else "unknown"
    if p >= alpha:
        return "none"
    return "gain" if sign * test.difference.mean > 0 else "loss"


def format_p(p: float) -> str:
    """'p = 0.012', 'p < 0.001', 'p = 1.00'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def verdict(
    alone: Sequence[float],
    distilled: Sequence[float],
    *,
    name: str = "distillation",
    reference: str = "the student alone",
    mcnemar: McNemar | None = None,
    p: float | None = None,
    comparisons: int = 1,
    alpha: float = 0.05,
    score: Score = TOP1,
) -> str:
    """Say in words whether `distilled` beats `alone`, with the test that the claim rests on.

    Args:
        alone: the score (top-1 accuracy in [0, 1], unless `score` says otherwise), one per seed.
        distilled: the same under the same seeds, in the same order.
        name: what `distilled` is called.
        reference: what `alone` is called.
        mcnemar: the test over the samples of the first seed; the only evidence where there is one seed.
        p: p-value of the paired test corrected for `comparisons`; by default the uncorrected one.
        comparisons: how many arms are tested against the same reference.
        alpha: level below which a difference counts as significant.
        score: what the numbers are.
    """
    test = paired_test(alone, distilled, alpha)
    if test is None:
        return _one_seed(alone, distilled, name, reference, mcnemar, score)
    p = test.p if p is None else p
    seeds = f"{len(alone)} seeds"
    if p is None or test.p is None:
        return _no_spread(test.difference.mean, seeds, name, reference, mcnemar, score)
    evidence = f"{seeds}, paired t-test {format_p(p)}"
    if comparisons > 1:
        evidence += f" after Holm's correction for {comparisons} comparisons"
    decided = outcome(test, p, alpha, score.sign)
    found = test.difference
    mean, sd = found.mean, found.sd or 0.0
    # One more decimal where the usual ones would round a figure to nothing.
    digits = score.digits + (score.scale * min(abs(mean), sd) < 0.5 * 10**-score.digits)
    if decided == "none":
        low, high = score.gap(found.low, digits), score.gap(found.high, digits)
        evidence += f"; {100 * (1 - alpha):g} % interval {'without it ' if comparisons > 1 else ''}{low} to {high}"
        difference = f"{score.gap(mean, digits)} ± {score.size(sd, digits)} {score.gap_unit}"
        return f"No significant difference: {name} is {difference} from {reference} ({evidence})."
    size = f"{score.size(mean, digits)} ± {score.size(sd, digits)} {score.gap_unit}"
    if decided == "gain":
        return f"{name} gains {size} over {reference} ({evidence})."
    return f"{name} loses {size} against {reference} ({evidence})."


def _one_seed(
    alone: Sequence[float],
    distilled: Sequence[float],
    name: str,
    reference: str,
    mcnemar: McNemar | None,
    score: Score,
) -> str:
    if not alone:
        return f"Cannot tell: {name} and {reference} have no seed in common, so nothing can be paired."
    text = (
        f"One seed cannot tell: {name} has {score.value(distilled[0])}, {reference} {score.value(alone[0])} "
        f"({score.gap(distilled[0] - alone[0])} {score.gap_unit}), and another seed may turn it round."
    )
    return text + _samples(mcnemar) + " Run at least three seeds for a verdict."


def _no_spread(mean: float, seeds: str, name: str, reference: str, mcnemar: McNemar | None, score: Score) -> str:
    if abs(mean) < NO_SPREAD:
        return f"No difference: {name} and {reference} have the same score on each of {seeds}." + _samples(mcnemar)
    return (
        f"Cannot tell: {name} is {score.gap(mean)} {score.gap_unit} from {reference} on each of {seeds}; without any "
        "spread between the seeds a t-test is not defined." + _samples(mcnemar)
    )


def _samples(mcnemar: McNemar | None) -> str:
    if mcnemar is None:
        return ""
    return (
        f" On the test samples of the first seed it wins {mcnemar.won} and loses {mcnemar.lost} "
        f"(exact McNemar {format_p(mcnemar.p)})."
    )


def with_sd(summary: Summary | None, scale: float = 100, digits: int = 2) -> str:
    """'97.22 ± 0.31', or the mean alone where there is one seed."""
    if summary is None or math.isnan(summary.mean):
        return DASH
    mean = f"{scale * summary.mean:.{digits}f}"
    return mean if summary.sd is None else f"{mean} ± {scale * summary.sd:.{digits}f}"
