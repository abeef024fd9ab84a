"""A teacher that reads other tokens than the student: how it is trained, checked and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from kd_lightning.data.arrays import IGNORE
from kd_lightning.data.base import SplitDataModule
from kd_lightning.jobs._predictions import predict
from kd_lightning.report.records import Arm

PREFIX = "teacher_"


def two_tokenizers(cfg: DictConfig) -> bool:
    """Whether the teacher has a tokenizer of its own."""
    return cfg.data.get("teacher_tokenizer") is not None


def check_prefix(cfg: DictConfig) -> None:
    """Refuse a teacher that would be given the student's tokens.

    Raises:
        ValueError: With what to set.
    """
    if two_tokenizers(cfg) and cfg.teacher.call.get("prefix") != PREFIX:
        raise ValueError(
            f"data.teacher_tokenizer is set, but the teacher is called with the student's tokens: set"
            f" teacher.call.prefix={PREFIX} and 'teacher.net.vocab_size=${{data.teacher_vocab_size}}' (of a"
            " checkpoint, its own vocabulary)."
        )
    if two_tokenizers(cfg) and cfg.method.rollout is not None:
        raise ValueError(
            f"method={cfg.method.name} generates text in the student's tokens, which a teacher with another"
            " tokenizer cannot read: take method=uld or span_alignment, or method.rollout=null."
        )


def with_teacher_tokens(plain: dict[str, Any]) -> None:
    """Turn the configuration of a teacher's training, in place, to its own tokens: it learns from the same texts as if
    there were no student.

    Args:
        plain: With ``data``, and the teacher as ``student``.
    """
    data = plain["data"]
    if data.get("teacher_tokenizer") is None:
        return
    data["tokenizer"], data["teacher_tokenizer"] = data["teacher_tokenizer"], None
    data.update(max_length=data["teacher_max_length"], vocab_size=None, pad_token_id=None, num_classes=None)
    plain["student"]["call"] = {**plain["student"]["call"], "prefix": ""}


def likelihood_remarks(cfg: DictConfig, data: SplitDataModule, teacher: nn.Module, arms: Iterable[Arm]) -> list[str]:
    """What can be compared across tokenizers: nats per character of the test split, as a sentence.

    Args:
        cfg: The whole configuration.
        data: Prepared data with the tokens of both.
        teacher: The teacher's net.
        arms: The students.
    """
    tokens = _count(data, "test")
    theirs = predict(teacher, instantiate(cfg.teacher.call), "test", data).whole["nll"] * tokens["teacher_"]
    said = [f"{cfg.teacher.name} (teacher) {theirs / tokens['characters']:.3f}"]
    for arm in arms:
        mean = sum(run.whole["nll"] for run in arm.runs) / len(arm.runs)
        said.append(f"{arm.name} {mean * tokens[''] / tokens['characters']:.3f}")
    return [
        "The teacher reads other tokens than the students, so numbers of tokens cannot be compared with it, and it is"
        f" left out of the table. Negative log-likelihood on the test split in nats per character: {', '.join(said)}."
    ]


def _count(data: SplitDataModule, split: str) -> Mapping[str, int]:
    """Tokens of either side that are predicted, by their prefix, and characters (the end of a text being one)."""
    found = {"": 0, PREFIX: 0, "characters": 0}
    for batch in data.loader(split, whole=True):
        for prefix in ("", PREFIX):
            found[prefix] += int((batch[f"{prefix}target"] != IGNORE).sum())
        found["characters"] += int(torch.where(batch["loss_mask"], batch["target_ends"], 0).amax(1).sum())
    return found
