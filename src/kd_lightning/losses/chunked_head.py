"""Divergences of language models from hidden states and heads: the logits of all tokens never exist at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_lightning.losses.ops.chunks import ELEMENTS, ChunkedHead, Settings
from kd_lightning.losses.ops.heads import classifier, finish_of
from kd_lightning.losses.ops.tokens import check_fraction

IGNORE = -100


def chunked_head_loss(
    student: Tensor,
    teacher: Tensor,
    student_head: nn.Module,
    teacher_head: nn.Module,
    mask: Tensor | None = None,
    target: Tensor | None = None,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    cross_entropy: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    r"""The divergence of :func:`~kd_lightning.losses.jsd.jsd_loss` of the logits that two heads make of hidden states.

    .. math:: T^2 \operatorname{mean}_\text{mask} D_\beta(p_t \| p_s) - w \operatorname{mean}_\text{target} \log p_s(y),
        \qquad p = \operatorname{softmax}(W h / T)

    ``beta=0`` is the forward KL, ``beta=1`` the reverse KL. Same value and gradients as from whole logits, for the
    memory of a few hundred tokens of them: gradients are made chunk by chunk in the forward pass. Only tokens of the
    mask or with a target are computed. Runs in the precision of autocast; softmaxes in float32.

    References:
        [0] Agarwal et al. On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. ICLR 2024.
        [1] linkedin/Liger-Kernel, src/liger_kernel/chunked_loss (fused linear distillation losses, described in Hsu
            et al., Liger Kernel, 2024)

    Differs from [1]: T squared; masks of their own for divergence and cross-entropy; no second derivative.

    Args:
        student: Student states before the head, (B, T, D_s) or (N, D_s), of a causal model unshifted.
        teacher: Teacher states, (B, T, D_t) or (N, D_t).
        student_head: Linear layer D_s -> V; its gradient is made too. What the model does after it is kept
            (:class:`~kd_lightning.losses.ops.heads.FinishedHead`, which a role makes of ``head!module``).
        teacher_head: Linear layer D_t -> V; where the sizes differ, the entries that both have count.
        mask: Tokens whose distributions are compared, (B, T) or (N,); None for all of them.
        target: Classes for the cross-entropy, same shape, -100 to ignore.
        beta: Weight of the teacher in the mixture, between 0 and 1.
        temperature: Divides the logits of the divergence.
        scale_by_temperature: Multiply the divergence by the temperature squared.
        cross_entropy: Weight w of the cross-entropy; needs ``target``.
        chunk: Tokens at a time; None for as many as make 2^25 logits.

    Returns:
        Scalar; 0 where no position is valid.

    Raises:
        ValueError: Where shapes differ, a head is no linear layer, or numbers are out of range.

    Example:
        >>> import torch
        >>> states, head = torch.ones(1, 3, 4), torch.nn.Linear(4, 8)
        >>> chunked_head_loss(states, states, head, head).item()
        0.0
    """
    _check(student, teacher, mask, target, beta, temperature, cross_entropy)
    positions = student.shape[:-1]
    compared = torch.ones(positions, dtype=torch.bool, device=student.device) if mask is None else mask.bool()
    wanted = torch.zeros_like(compared) if target is None or not cross_entropy else target != IGNORE
    rows = (compared | wanted).flatten()
    heads = tuple(classifier(head, finished=False) for head in (student_head, teacher_head))
    ours, theirs = finish_of(student_head), finish_of(teacher_head)
    size = min(*(head.weight.shape[0] for head in heads), *(x.width for x in (ours, theirs) if x.width is not None))
    dtype = student.dtype
    if torch.is_autocast_enabled(student.device.type):
        dtype = torch.get_autocast_dtype(student.device.type)

    def prepared(states: Tensor, head: nn.Linear | nn.Conv2d) -> list[Tensor | None]:
        parts = (head.weight[:size], None if head.bias is None else head.bias[:size])
        return [states.flatten(0, -2)[rows].to(dtype), *(None if x is None else x.to(dtype) for x in parts)]

    def weights(chosen: Tensor) -> Tensor:
        full = torch.float64 if dtype == torch.float64 else torch.float32
        return chosen.flatten()[rows].to(full) / chosen.sum().clamp(min=1)

    with torch.autocast(student.device.type, enabled=False):
        settings = Settings(
            beta=beta,
            temperature=temperature,
            scale=temperature**2 if scale_by_temperature else 1.0,
            cross_entropy=cross_entropy,
            chunk=chunk or max(16, ELEMENTS // size),
            student=ours,
            teacher=theirs,
        )
        classes = torch.zeros_like(compared, dtype=torch.int64) if target is None else target
        with torch.no_grad():
            fixed = prepared(teacher.detach(), heads[1])
        loss: Tensor = ChunkedHead.apply(
            *prepared(student, heads[0]),
            *fixed,
            classes.flatten()[rows],
            weights(compared),
            weights(wanted),
            settings,
        )
    return loss


def _check(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    target: Tensor | None,
    beta: float,
    temperature: float,
    cross_entropy: float,
) -> None:
    """Refuse what does not fit."""
    check_fraction("beta", beta)
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}.")
    if cross_entropy and target is None:
        raise ValueError("cross_entropy needs targets: give inputs.target=batch.target.")
    for name, other in (("teacher states", teacher[..., 0]), ("mask", mask), ("target", target)):
        if other is not None and other.shape != student.shape[:-1]:
            raise ValueError(
                f"{name} {tuple(other.shape)} must have the positions of the student states"
                f" {tuple(student.shape[:-1])}."
            )


class ChunkedJSDLoss(nn.Module):
    """Module form of :func:`chunked_head_loss`."""

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 1.0,
        scale_by_temperature: bool = True,
        cross_entropy: float = 0.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.temperature = temperature
        self.scale_by_temperature = scale_by_temperature
        self.cross_entropy = cross_entropy
        self.chunk = chunk

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_head: nn.Module,
        teacher_head: nn.Module,
        mask: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Tensor:
        """See :func:`chunked_head_loss`."""
        return chunked_head_loss(
            student,
            teacher,
            student_head,
            teacher_head,
            mask,
            target,
            beta=self.beta,
            temperature=self.temperature,
            scale_by_temperature=self.scale_by_temperature,
            cross_entropy=self.cross_entropy,
            chunk=self.chunk,
        )


class ChunkedForwardKLLoss(ChunkedJSDLoss):
    """:func:`chunked_head_loss` with ``beta=0``."""

    def __init__(
        self,
        temperature: float = 1.0,
        scale_by_temperature: bool = True,
        cross_entropy: float = 0.0,
        chunk: int | None = None,
    ) -> None:
        super().__init__(0.0, temperature, scale_by_temperature, cross_entropy, chunk)
