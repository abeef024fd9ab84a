"""What a task of text data means for a model of transformers: its class and its output."""

from __future__ import annotations

from typing import Any

from kd_lightning.data.targets import target_of
from kd_lightning.tasks.registry import find_task


def outputs(task: str, num_classes: int | None) -> dict[str, Any]:
    """Fields of a transformers configuration that say what the head gives.

    Args:
        task: Of the data.
        num_classes: Classes or tags; not needed where the output is a token or an embedding.

    Raises:
        ValueError: A task of labels without their number.
    """
    target = target_of(task)
    if target.column is None:
        return {}
    kind = {} if target.problem_type is None else {"problem_type": target.problem_type}
    width = target.width or num_classes
    if width is None:
        raise ValueError(f"task={task} needs num_classes: the number of classes that the data has.")
    return {"num_labels": width, **kind}


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

    head = find_task(task).head
    auto: Any = getattr(transformers, head)
    if type(config) not in auto._model_mapping:
        raise ValueError(
            f"{type(config).__name__} has no net for task={task} in transformers ({head}). Take an"
            " encoder (BERT) for masked_lm, a decoder (GPT) for causal_lm."
        )
    return auto.from_config(config, **without_pooler(task, auto._model_mapping[type(config)]), **options)


def without_pooler(task: str, architecture: Any) -> dict[str, Any]:
    """The option that leaves BERT's pooler out, where nothing would train it."""
    import inspect

    if find_task(task).output != "sentence_embedding" or not isinstance(architecture, type):
        return {}
    takes = "add_pooling_layer" in inspect.signature(architecture).parameters
    return {"add_pooling_layer": False} if takes else {}
