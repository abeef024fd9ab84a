"""A teacher that reads other tokens than the student: what must be set, and how its own training is set."""

from __future__ import annotations

from typing import Any

from kd_lightning.config.schema import Config

PREFIX = "teacher_"


def two_tokenizers(settings: Config) -> bool:
    """Whether the teacher has a tokenizer of its own."""
    return settings.data.get("teacher_tokenizer") is not None


def check_prefix(settings: Config) -> None:
    """Refuse a teacher that would be given the student's tokens.

    Raises:
        ValueError: With what to set.
    """
    if two_tokenizers(settings) and settings.teacher.call.get("prefix") != PREFIX:
        raise ValueError(
            f"data.teacher_tokenizer is set, but the teacher is called with the student's tokens: set"
            f" teacher.call.prefix={PREFIX} and 'teacher.net.vocab_size=${{data.teacher_vocab_size}}' (of a"
            " checkpoint, its own vocabulary)."
        )
    if two_tokenizers(settings) and settings.method.rollout is not None:
        raise ValueError(
            f"method={settings.method.name} generates text in the student's tokens, which a teacher with another"
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
