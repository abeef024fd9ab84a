"""What losses over the layers of two transformers share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def layer_map(layers: Sequence[int] | None, student_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's layer of each student layer, 1 to M.

    Args:
        layers: As configured, from 1; None for m * N / M.
        student_layers: M.
        teacher_layers: N.

    Raises:
        ValueError: The layers cannot be mapped.
    """
    if layers is None:
        if teacher_layers % student_layers:
            raise ValueError(
                f"{teacher_layers} teacher layers are not a multiple of {student_layers} student layers: give the"
                " teacher's layer (from 1) of each student layer in layers."
            )
        return [m * teacher_layers // student_layers for m in range(1, student_layers + 1)]
    if len(layers) != student_layers or not all(1 <= layer <= teacher_layers for layer in layers):
        raise ValueError(
            f"layers {list(layers)} must name one of the teacher's layers 1 to {teacher_layers} for each of the"
            f" {student_layers} student layers."
        )
    return list(layers)


def check_states(
    loss: str,
    student_attentions: list[Tensor],
    teacher_attentions: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
) -> None:
    """Refuse hidden states that are not those of the embedding and of every layer.

    Raises:
        ValueError: On either side there is not one more of them than attentions; names the loss.
    """
    if len(student_hidden) != len(student_attentions) + 1 or len(teacher_hidden) != len(teacher_attentions) + 1:
        raise ValueError(
            f"{loss} needs one more hidden state (the embedding) than attentions: student {len(student_hidden)} and"
            f" {len(student_attentions)}, teacher {len(teacher_hidden)} and {len(teacher_attentions)}."
        )
