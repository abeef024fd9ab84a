"""What numbers may be: one table, looked at before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have; null always stands for what is not set.

    Attributes:
        low: The least.
        high: The largest.
        above: Whether it must be larger than ``low``.
        below: Whether it must be smaller than ``high``.
        whole: Whether it has no fraction.
        also: Numbers beside those, with a meaning of their own.
        why: What a number outside would do.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    also: tuple[float, ...] = ()
    why: str = ""

    def has(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if value in self.also:
            return True
        if not math.isfinite(value) or (self.whole and value != int(value)):
            return False
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        parts = ["a whole number" if self.whole else "a number"]
        if self.low > -math.inf:
            parts.append(f"above {self.low:g}" if self.above else f"from {self.low:g}")
        if self.high < math.inf:
            parts.append(f"below {self.high:g}" if self.below else f"to {self.high:g}")
        parts += [f"or {one:g}" for one in self.also]
        return " ".join(parts)


@dataclass(frozen=True)
class Batches(Range):
    """A count of batches, or a share of an epoch."""

    def has(self, value: Any) -> bool:
        """A whole number, or a fraction up to 1."""
        return super().has(value) and (value <= 1 or value == int(value))

    def __str__(self) -> str:
        return f"a number of batches from {self.low if not self.above else 1:g}, or a share of them up to 1.0"


NUMBER, SHARE, POSITIVE, NOT_NEGATIVE = Range(), Range(0, 1), Range(0, above=True), Range(0)
PART = Range(0, 1, below=True)
INSIDE = Range(0, 1, above=True, below=True)
COUNT, SOME = Range(0, whole=True), Range(1, whole=True)
SEED = Range(0, 2**32 - 1, whole=True)
UNTRAINED = "Nothing would be trained."
# Path, with * for any name or number -> what it may be; where a part of the program checks a number itself, it is not
# here. The same holds below ``fit`` of a role, for ``baseline`` as for ``method``, and for a further role as for the
# teacher.
# fmt: off
RANGES: dict[str, Range] = {
    "teacher.seed": SEED,
    "trainer.max_epochs": Range(1, whole=True, also=(-1,), why=f"-1 is without an end. {UNTRAINED}"),
    "trainer.max_steps": Range(1, whole=True, also=(-1,), why=f"-1 is without an end. {UNTRAINED}"),
    "trainer.min_epochs": COUNT, "trainer.num_nodes": SOME, "trainer.accumulate_grad_batches": SOME,
    "trainer.check_val_every_n_epoch": SOME, "trainer.log_every_n_steps": COUNT,
    "trainer.num_sanity_val_steps": Range(-1, whole=True),
    "trainer.gradient_clip_val": Range(0, why="null or 0 clips nothing."),
    "trainer.limit_train_batches": Batches(0, above=True, why=UNTRAINED),
    "trainer.limit_val_batches": Batches(0), "trainer.limit_test_batches": Batches(0),
    "trainer.val_check_interval": Batches(0, above=True),
    "trainer.ema": Range(0, 1, above=True, below=True, why="It is the share that is kept after a step."),
    "optimizer.lr": Range(0, why="A negative rate would climb."),
    "optimizer.weight_decay": Range(0, why="A negative one would grow the weights."),
    "optimizer.momentum": Range(0, 1, below=True, why="From 1 on the steps grow without end."),
    "optimizer.dampening": SHARE, "optimizer.betas.*": PART, "optimizer.alpha": SHARE, "optimizer.rho": SHARE,
    "optimizer.eps": NOT_NEGATIVE, "optimizer.lr_decay": NOT_NEGATIVE,
    "scheduler.factory.T_max": Range(1, whole=True, also=(-1,)), "scheduler.factory.length": Range(1, also=(-1,)),
    "scheduler.factory.total_iters": SOME, "scheduler.factory.total_steps": SOME, "scheduler.factory.step_size": SOME,
    "scheduler.factory.milestones.*": SOME, "scheduler.factory.gamma": POSITIVE, "scheduler.factory.factor": INSIDE,
    "scheduler.factory.patience": COUNT, "scheduler.factory.warmup": SHARE, "scheduler.factory.end": SHARE,
    "scheduler.factory.eta_min": NOT_NEGATIVE, "scheduler.factory.max_lr": POSITIVE,
    "callbacks.*.patience": COUNT,
    "method.terms.*.weight": NUMBER, "method.terms.*.weight.value": NUMBER, "method.terms.*.weight.start": NUMBER,
    "method.terms.*.weight.end": NUMBER, "method.terms.*.weight.epochs": COUNT,
    "method.terms.*.weight.first": Range(0, 1, whole=True),
    "method.terms.*.loss.temperature": POSITIVE, "method.terms.*.loss.temperatures.*": POSITIVE,
    "method.terms.*.loss.student_temperature": POSITIVE, "method.terms.*.loss.teacher_temperature": POSITIVE,
    "method.terms.*.loss.smoothing": PART, "method.terms.*.loss.label_smoothing": PART,
    "method.terms.*.loss.confidence": INSIDE, "method.terms.*.loss.skew": SHARE, "method.terms.*.loss.ratio": SHARE,
    "method.terms.*.loss.epochs": COUNT, "method.terms.*.loss.warmup_epochs": COUNT,
    "method.terms.*.loss.dim": SOME, "method.terms.*.loss.negatives": SOME, "method.terms.*.loss.momentum": SHARE,
    "method.terms.*.loss.*": NUMBER,
    "method.stages.*.fraction": Range(0, 1, above=True),
    "method.rollout.fraction": SHARE, "method.rollout.mix": SHARE,
    "method.rollout.generation.temperature": NOT_NEGATIVE, "method.rollout.generation.max_new_tokens": SOME,
    "method.rollout.generation.num_beams": SOME,
    "method.rollout.generation.top_p": Range(0, 1, above=True), "method.rollout.generation.top_k": COUNT,
    "*.net.dropout": PART, "*.net.drop_rate": PART, "*.net.drop_path_rate": PART, "*.net.drop": PART,
    "*.net.lora.dropout": PART, "*.net.lora.r": SOME, "*.net.hidden.*": SOME,
    "teacher.max_gb": POSITIVE, "teacher.decay": PART,
    "data.image_size": SOME, "data.image_size.*": SOME, "data.channels": SOME,
    "data.batch_size": SOME, "data.eval_batch_size": SOME, "data.num_workers": COUNT, "data.max_length": SOME,
    "data.val_fraction": PART, "data.test_fraction": PART,
    "compare.alpha": Range(0, 1, above=True, below=True, why="It is a level of significance, such as 0.05."),
    "compare.latency_batch": SOME,
    "export.calibration": Range(1, whole=True, why="An int8 file takes its ranges from these samples."),
    "export.tolerance": NOT_NEGATIVE, "export.accuracy_drop": NUMBER,
    "prepare.quality": Range(1, 100, whole=True), "prepare.chunk_mb": POSITIVE, "prepare.max_gb": POSITIVE,
    "prepare.num_workers": SOME,
    "predict.batch_size": SOME, "predict.new_tokens": SOME,
    "serve.port": Range(0, 65535, whole=True), "serve.workers": SOME, "serve.top": SOME,
    "serve.timeout_ms": NOT_NEGATIVE, "serve.request_timeout_s": POSITIVE,
    "serve.max_pixels": SOME, "serve.max_characters": SOME, "serve.new_tokens": SOME,
    "study.part": COUNT,
}
# Of a loss, whose numbers are not all known, only a number that is none is refused.
LOOSE = {"method.terms.*.loss.*"}
# fmt: on
_PATTERNS = [
    (re.compile(re.escape(path).replace(r"\*", "[^.]+") + "$"), path in LOOSE, allowed)
    for path, allowed in RANGES.items()
]


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot be meant.

    Args:
        settings: The whole configuration, as plain values.

    Raises:
        ValueError: Names each of them, and what it may be.
    """
    wrong = {}
    for path, value in _leaves(settings):
        allowed = _allowed(path, value)
        if allowed is not None and not allowed.has(value):
            wrong[path] = f"{path}={value}: it must be {allowed}. {allowed.why}".rstrip()
    if "trainer.max_epochs" in wrong:  # schedules have it for their length
        wrong = {path: text for path, text in wrong.items() if not path.startswith("scheduler.factory.")}
    if wrong:
        raise ValueError("\n".join(wrong.values()))


def _allowed(path: str, value: Any) -> Range | None:
    """What a setting may be, by the first line of the table that speaks of it; None for anything."""
    known = re.sub(r"^.*\bfit\.", "", path)  # of the training of a role, or of the student's body
    known = re.sub(r"^roles\.[^.]+\.", "teacher.", re.sub(r"^baseline\.", "method.", known))
    for pattern, loose, allowed in _PATTERNS:
        if pattern.match(known):
            return None if loose and not isinstance(value, float) else allowed
    return None


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is set, and where it stands."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}.{i}")
    elif node is not None and node != "???" and not (isinstance(node, str) and "${" in node):
        yield path, node
