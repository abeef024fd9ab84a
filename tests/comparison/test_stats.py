"""Statistics against numbers worked out by hand, and verdicts that claim nothing without a test."""

import math

import pytest
import torch

from kd_lightning.comparison import stats

THREE = [0.90, 0.91, 0.92]
BETTER = [0.91, 0.93, 0.95]  # differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01


def test_summary_by_hand():
    found = stats.summarise([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)  # t(0.975, 2) from a table
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)


def test_a_single_value_has_no_spread():
    assert stats.summarise([0.5]) == stats.Summary(1, 0.5, None, None, None)
    with pytest.raises(ValueError, match="at least one"):
        stats.summarise([])


def test_paired_test_by_hand():
    found = stats.paired_test(THREE, BETTER)
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-9)  # closed form of t with two degrees
    assert found.cohens_d == pytest.approx(2.0)
    assert found.difference.mean == pytest.approx(0.02)


def test_one_pair_is_no_test():
    assert stats.paired_test([0.9], [0.95]) is None


@pytest.mark.parametrize("shift", [0.0, 0.01, -0.3])
def test_no_spread_gives_no_p_value(shift):
    found = stats.paired_test([0.7, 0.8, 0.9], [0.7 + shift, 0.8 + shift, 0.9 + shift])
    assert found.p is None
    assert found.cohens_d is None
    assert stats.outcome(found, None) == ("none" if shift == 0 else "unknown")


def test_mcnemar_by_hand():
    a = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1, 0], dtype=torch.bool)
    b = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 0], dtype=torch.bool)
    assert stats.mcnemar(a, b) == stats.McNemar(won=1, lost=6, p=pytest.approx(2 * (1 + 7) / 2**7))
    assert stats.mcnemar(a, a).p == 1.0


def test_holm_by_hand():
    assert stats.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert stats.holm([0.6, 0.7]) == [1.0, 1.0]


def test_verdict_of_a_gain_and_of_a_loss():
    better = [0.950, 0.961, 0.972]  # + 0.050, 0.051, 0.052
    gain = stats.verdict(THREE, better, name="kd")
    assert gain.startswith("kd gains 5.1 ± 0.1 points over the student alone (3 seeds, paired t-test p < 0.001)")
    loss = stats.verdict(better, THREE, name="kd")
    assert loss.startswith("kd loses 5.1 ± 0.1 points against the student alone (3 seeds, paired t-test p < 0.001)")


def test_verdict_without_significance_claims_nothing():
    text = stats.verdict(THREE, BETTER, name="kd")
    assert text.startswith("No significant difference: kd is +2.0 ± 1.0 points from the student alone")
    assert "p = 0.074" in text
    assert "95 % interval −0.5 to +4.5" in text
    assert "gains" not in text


def test_verdict_follows_the_corrected_p_value():
    better = [0.930, 0.945, 0.957]  # significant alone (p = 0.009), not after a correction to 0.2
    assert "gains" in stats.verdict(THREE, better)
    corrected = stats.verdict(THREE, better, p=0.2, comparisons=5)
    assert corrected.startswith("No significant difference")
    assert "Holm's correction for 5 comparisons" in corrected


def test_verdict_of_one_seed_says_so_and_gives_mcnemar():
    text = stats.verdict([0.9], [0.95], name="kd", mcnemar=stats.McNemar(9, 4, 0.267))
    assert text.startswith("One seed cannot tell: kd has 95.0 %, the student alone 90.0 % (+5.0 points)")
    assert "wins 9 and loses 4 (exact McNemar p = 0.27)" in text
    assert "gains" not in text


def test_verdict_without_spread_or_common_seed():
    same = stats.verdict([0.9, 0.8], [0.9, 0.8], name="kd")
    assert same.startswith("No difference: kd and the student alone have the same score on each of 2 seeds")
    constant = stats.verdict([0.9, 0.8], [0.91, 0.81], name="kd")
    assert constant.startswith("Cannot tell: kd is +1.0 points from the student alone on each of 2 seeds")
    assert "not defined" in constant
    assert stats.verdict([], [], name="kd").startswith("Cannot tell: kd and the student alone have no seed in common")
