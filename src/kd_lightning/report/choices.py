"""Which weights of a training were chosen, what others would have given, and what the training cost."""

from __future__ import annotations

from collections.abc import Sequence

from kd_lightning.comparison.results import Comparison
from kd_lightning.comparison.stats import summarise, with_sd
from kd_lightning.files.artifact import Artifact
from kd_lightning.measures import format as fmt

WHICH = {
    "last": "last epoch",
    "best": "best on validation",
    "best_on_test": "best on test (paper protocol)",
}
PROTOCOL = (
    "Best on test (paper protocol): the epoch was chosen on the test split itself, as in much of the literature."
    " Compare it with published tables only; the verdicts rest on the honest choice."
)


def choice_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and a row per arm that was trained here: the score by choice of weights, epochs, time and energy of one."""
    score = comparison.score
    arms = [arm for arm in comparison.arms if any(run.choices for run in arm.runs)]
    shown = [w for w in WHICH if any(score.key in run.choices.get(w, {}) for arm in arms for run in arm.runs)]
    unit = f" ({score.unit})" if score.unit else ""
    head = ["Arm", *(WHICH[which] + unit for which in shown), "Epochs", "Time", "Energy"]
    rows = []
    for arm in arms:
        runs = arm.runs
        values = [[one[score.key] for run in runs if score.key in (one := run.choices.get(w, {}))] for w in shown]
        # A mean over some of the seeds would stand beside means over all of them.
        scores = [with_sd(summarise(v) if len(v) == len(runs) else None, score.scale, score.digits + 1) for v in values]
        seconds = _mean([run.train_seconds for run in runs])
        epochs = _mean([run.epochs for run in runs])
        known = fmt.DASH if epochs is None else f"{epochs:.4g}"
        rows.append([arm.name, *scores, known, fmt.DASH if seconds is None else fmt.seconds(seconds), _energy(runs)])
    return head, rows


def paper_protocol(comparison: Comparison) -> str | None:
    """What the optimistic column is worth, where there is one."""
    every = (run for arm in comparison.arms for run in arm.runs)
    return PROTOCOL if any("best_on_test" in run.choices for run in every) else None


def _energy(runs: Sequence[Artifact]) -> str:
    joules = _mean([run.energy_joules for run in runs])
    return "not measured" if joules is None else f"{joules:,.0f} J"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
