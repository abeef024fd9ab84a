"""Comparisons of networks that do not answer with one of a few classes."""

import math

import pytest
import torch
from scipy import stats

from kd_lightning.comparison.records import Arm, Cost
from kd_lightning.comparison.results import Comparison, compare
from kd_lightning.report.html import html
from kd_lightning.report.markdown import markdown
from kd_lightning.report.numbers import metrics
from kd_lightning.tasks.regression import regression_metrics
from tests.report import build

N = 200


def arms_of(outputs, target, whole=lambda name, seed: {}):
    """A teacher, and two students of three seeds each; `outputs(name, seed)` gives what they say."""
    made = []
    three = [0, 1, 2]
    arms = (("teacher", "teacher", [0]), ("student alone", "alone", three), ("student + kd", "distilled", three))
    for name, kind, seeds in arms:
        runs = [
            build.artifact(name, s, ".", outputs(name, s), target, torch.arange(len(target)), whole=whole(name, s))
            for s in seeds
        ]
        made.append(Arm(name, kind, runs, Cost(parameters=100 if kind == "teacher" else 10)))
    return made


def noise(name, seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(name) * 100 + seed))


def every_report(comparison):
    page, text = html(comparison, {}), markdown(comparison)
    assert "Balance over the classes" not in page + text
    assert "confusion" not in page.lower()
    again = Comparison.from_dict(comparison.to_dict())
    assert again.verdicts == comparison.verdicts
    return page


def test_language_models_are_judged_by_their_likelihood():
    target = torch.arange(N) % 30
    sharpness = {"teacher": 4.0, "student alone": 2.0, "student + kd": 3.0}

    def outputs(name, seed):
        return sharpness[name] * torch.nn.functional.one_hot(target, 30).float() + 0.3 * noise(name, seed, N, 30)

    comparison = compare(arms_of(outputs, target), [], task="causal_lm")
    alone, taught = comparison.arm("student alone"), comparison.arm("student + kd")
    want = torch.nn.functional.cross_entropy(outputs("student + kd", 1), target)
    assert taught.metrics[1]["nll"] == pytest.approx(float(want), rel=1e-5)
    assert taught.metrics[1]["perplexity"] == pytest.approx(math.exp(float(want)), rel=1e-5)
    assert comparison.contrasts[0].outcome == "gain"  # lower is better
    assert "nats per token" in comparison.verdicts[0]
    assert comparison.verdicts[0].startswith("student + kd gains")
    page = every_report(comparison)
    assert "Perplexity" in page
    assert alone.metrics[0].keys() >= {"top1", "ece", "agreement", "kl"}
    assert metrics(comparison)["contrasts"]["student + kd"]["nll_difference"]["mean"] < 0
    fronts = {name: row["pareto"]["parameters"] for name, row in metrics(comparison)["arms"].items()}
    assert fronts == {"teacher": 1, "student alone": 0, "student + kd": 1}


def test_a_loss_of_likelihood_is_a_loss():
    target = torch.zeros(N, dtype=torch.long)

    def outputs(name, seed):
        return {"student + kd": 0.5}.get(name, 2.0) * torch.eye(5)[target] + 0.1 * noise(name, seed, N, 5)

    comparison = compare(arms_of(outputs, target), [], task="masked_lm")
    assert comparison.contrasts[0].outcome == "loss"
    assert "loses" in comparison.verdicts[0]


def test_figures_of_the_whole_split_go_before_those_of_the_sample():
    target = torch.arange(N) % 5
    arms = arms_of(
        lambda name, seed: noise(name, seed, N, 5),
        target,
        lambda name, seed: {"nll": 1.0 + 0.01 * seed, "perplexity": 2.8, "top1": 0.5},
    )
    comparison = compare(arms, [], task="causal_lm")
    assert comparison.arm("student + kd").of_seeds("nll", [0, 1, 2]) == [1.0, 1.01, 1.02]
    assert f"{N} tokens taken evenly from all; perplexity, top-1 and NLL are of all; mean" in html(comparison, {})


def test_values_are_judged_by_their_order():
    target = noise("truth", 0, N)
    spread = {"teacher": 0.1, "student alone": 1.5, "student + kd": 0.5}
    target[3] = float("nan")  # unknown: left out

    def outputs(name, seed):
        return (target.nan_to_num() + spread[name] * noise(name, seed, N))[:, None]

    comparison = compare(arms_of(outputs, target), [], task="regression")
    known = target.isfinite()
    want = stats.spearmanr(outputs("student + kd", 2)[known, 0], target[known]).statistic
    assert comparison.arm("student + kd").metrics[2]["spearman"] == pytest.approx(want)
    want = stats.pearsonr(outputs("student alone", 0)[known, 0].double(), target[known].double()).statistic
    assert comparison.arm("student alone").metrics[0]["pearson"] == pytest.approx(want)
    assert comparison.contrasts[0].outcome == "gain"
    assert "Spearman" in every_report(comparison)


def test_embeddings_are_judged_by_the_teacher():
    teacher = noise("teacher", 0, N, 8)
    spread = {"teacher": 0.0, "student alone": 2.0, "student + kd": 0.3}

    def outputs(name, seed):
        return teacher + spread[name] * noise(name, seed, N, 8)

    comparison = compare(arms_of(outputs, torch.zeros(N)), [], task="embedding")
    found = comparison.arm("student + kd").metrics[0]
    want = torch.nn.functional.cosine_similarity(outputs("student + kd", 0), teacher).mean()
    assert found["cosine"] == pytest.approx(float(want), abs=1e-5)
    assert 0.5 < found["rank_correlation"] < 1
    assert "cosine" not in comparison.arm("teacher").metrics[0]
    assert comparison.contrasts[0].outcome == "gain"
    assert "Cosine with teacher" in every_report(comparison)


def test_ties_share_their_rank():

    values, target = torch.tensor([[1.0], [1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 2.0, 5.0])
    want = stats.spearmanr(values[:, 0], target).statistic
    assert regression_metrics(values, target)["spearman"] == pytest.approx(want)
