"""The tasks by name: what ``data.task`` may be."""

from __future__ import annotations

from dataclasses import replace

from kd_lightning.tasks import classification, embedding, language_model, regression
from kd_lightning.tasks.base import Task

_CLASSES = Task(classification.TOP1, classification.measures, classification.agreement, classes=True, confidence=True)
_NEXT_TOKENS = Task(
    language_model.TOKEN_NLL, language_model.token_metrics, classification.agreement, confidence=True, rows="tokens"
)

TASKS: dict[str, Task] = {
    "classification": _CLASSES,
    "token_classification": replace(_CLASSES, rows="tokens"),
    "causal_lm": _NEXT_TOKENS,
    "masked_lm": _NEXT_TOKENS,
    "regression": Task(regression.SPEARMAN, regression.regression_metrics, regression.value_agreement),
    "embedding": Task(
        embedding.COSINE, lambda outputs, target: {}, embedding.embedding_agreement, output="sentence_embedding"
    ),
}
