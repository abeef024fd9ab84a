"""Samples of the student with the teacher mixed in (MiniLLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.core.roles import Roles
from kd_lightning.core.rollouts.generation import Generation, continue_batch, role_of


class MiniLLMSamples:
    r"""Responses drawn token by token from :math:`\alpha\, p_t + (1 - \alpha)\, p_s`, both nets with their KV cache.

    The teacher's share keeps the student from samples that please the teacher without being good. ``behaviour`` of the
    new batch holds the log-probability of each token under the mixture, for the importance weights of the policy
    gradient. With ``text`` the batch as it was is stacked below the samples, for a language-modelling term: rows 0 to
    B - 1 are the samples, with ``target`` and ``loss_mask``; rows B to 2B - 1 have -100 in ``target``, and in
    ``text_target`` what ``target`` was (it is -100 in the rows of the samples).

    References:
        [0] Gu, Dong, Wei, Huang. MiniLLM: Knowledge Distillation of Large Language Models. ICLR 2024.
        [1] microsoft/LMOps, minillm/minillm/sampler.py

    Differs from [1]: every sample serves one step, drawn by the student of that step; the text is that of the batch,
    where [1] takes another corpus.

    Args:
        generation: How the responses are written.
        mix: The teacher's share alpha, the ``teacher_mix`` of the loss.
        text: Stack the batch itself below its samples.
        role: Who writes.
        teacher: Who is mixed in.
    """

    def __init__(
        self,
        generation: Generation,
        mix: float = 0.2,
        text: bool = True,
        role: str = "student",
        teacher: str = "teacher",
    ) -> None:
        if not 0 <= mix <= 1:
            raise ValueError(f"rollout.mix is the teacher's share, between 0 and 1, not {mix}.")
        if not generation.temperature:
            raise ValueError("A policy gradient needs samples: set rollout.generation.temperature above 0.")
        self.generation, self.mix, self.text, self.role, self.teacher = generation, mix, text, role, teacher

    def attach(self, data: Any) -> None:
        """Take the data module, whose tokenizer knows what ends a text."""
        self.generation = self.generation.of(data)

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The samples, and below them the batch where ``text`` is set."""
        student, teacher = role_of(roles, self.role), role_of(roles, self.teacher)
        samples = continue_batch(batch, student, self.generation, teacher, self.mix)
        return stacked(samples, batch) if self.text else samples


def stacked(samples: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Samples above the batch that they come from, padded on the right to the longer of both."""
    ignored = torch.full_like(batch["target"], -100)
    width = max(samples["input_ids"].shape[1], batch["input_ids"].shape[1])

    def stack(above: Tensor, below: Tensor, fill: float) -> Tensor:
        return torch.cat([F.pad(rows, (0, width - rows.shape[1]), value=fill) for rows in (above, below)])

    target = stack(samples["target"], ignored, -100)
    text = stack(torch.full_like(samples["target"], -100), batch["target"], -100)
    behaviour = stack(samples["behaviour"], torch.zeros_like(ignored, dtype=torch.float32), 0.0)
    result = {key: value for key, value in samples.items() if not isinstance(value, Tensor)}
    return {
        **result,
        "input_ids": stack(samples["input_ids"], batch["input_ids"], 0),
        "attention_mask": stack(samples["attention_mask"], batch["attention_mask"], 0),
        "target": target,
        "loss_mask": target != -100,
        "text_target": text,
        "behaviour": behaviour,
        "prompt_length": torch.cat([samples["prompt_length"], _prompt_length(batch)]),
        "index": batch["index"].repeat(2),
    }


def _prompt_length(batch: Mapping[str, Any]) -> Tensor:
    given: Tensor = batch["prompt_length"] if "prompt_length" in batch else torch.zeros_like(batch["index"])
    return given
