"""What a task of text data means for a model of transformers: its class and its output."""

from __future__ import annotations

from typing import Any

from kd_lightning.models.registry import near_names

AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "embedding": "AutoModel",
}
# Tasks whose output is a class, a number or a tag, not a token.
LABELLED = ("classification", "regression", "token_classification")


def check_task(task: str) -> None:
    """Refuse what is no task.

    Raises:
        ValueError: Lists those that there are.
    """
    if task not in AUTO_CLASSES:
        raise ValueError(f"task={task}: choose {', '.join(AUTO_CLASSES)}.{near_names(task, AUTO_CLASSES)}")


def outputs(task: str, num_classes: int | None) -> dict[str, Any]:
    """Fields of a transformers configuration that say what the head gives.

    Args:
        task: Of the data.
        num_classes: Classes or tags; not needed where the output is a token or an embedding.

    Raises:
        ValueError: A task of labels without their number.
    """
    if task not in LABELLED:
        return {}
    if task == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    if num_classes is None:
        raise ValueError(f"task={task} needs num_classes: the number of classes that the data has.")
    kind = {"problem_type": "single_label_classification"} if task == "classification" else {}
    return {"num_labels": num_classes, **kind}


def build(task: str, config: Any, **options: Any) -> Any:
    """A net of the task with random weights.

    Args:
        task: Of the data.
        config: Configuration of transformers, with the fields of :func:`outputs`.
        **options: Passed to transformers (``attn_implementation``).

    Raises:
        ValueError: The architecture has no net for this task.
    """
    import transformers

    check_task(task)
    auto: Any = getattr(transformers, AUTO_CLASSES[task])
    if type(config) not in auto._model_mapping:
        raise ValueError(
            f"{type(config).__name__} has no net for task={task} in transformers ({AUTO_CLASSES[task]}). Take an"
            " encoder (BERT) for masked_lm, a decoder (GPT) for causal_lm."
        )
    return auto.from_config(config, **without_pooler(task, auto._model_mapping[type(config)]), **options)


def without_pooler(task: str, architecture: Any) -> dict[str, Any]:
    """The option that leaves BERT's pooler out, where nothing would train it."""
    import inspect

    if task != "embedding" or not isinstance(architecture, type):
        return {}
    takes = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if takes else {}
