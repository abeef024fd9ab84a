"""The tasks by name: what ``data.task`` may be."""

from __future__ import annotations

from kd_lightning.tasks import classification, embedding, language_model, regression
from kd_lightning.tasks.base import Task

TASKS: dict[str, Task] = {
    "classification": Task(
        classification.TOP1, classification.measures, classification.agreement, classes=True, confidence=True
    ),
    "token_classification": Task(
        classification.TOP1,
        classification.measures,
        classification.agreement,
        classes=True,
        confidence=True,
        rows="tokens",
    ),
    "causal_lm": Task(
        language_model.TOKEN_NLL,
        language_model.token_metrics,
        classification.agreement,
        confidence=True,
        rows="tokens",
    ),
    "masked_lm": Task(
        language_model.TOKEN_NLL,
        language_model.token_metrics,
        classification.agreement,
        confidence=True,
        rows="tokens",
    ),
    "regression": Task(regression.SPEARMAN, regression.regression_metrics, regression.value_agreement),
    "embedding": Task(
        embedding.COSINE, lambda outputs, target: {}, embedding.embedding_agreement, output="sentence_embedding"
    ),
}
