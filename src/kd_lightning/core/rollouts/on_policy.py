"""The student's own samples (GKD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kd_lightning.core.roles import Roles
from kd_lightning.core.rollouts.generation import Generation, continue_batch, role_of
from kd_lightning.core.rollouts.sampler import coin
from kd_lightning.core.schedules import Constant, Progress


class OnPolicy:
    """With probability ``fraction`` the student continues the prompts of a batch itself; else the batch stays.

    Teacher and student then look at what the student writes, mistakes included. One coin a batch, a function of seed
    and step: all processes throw the same, and so does a resumed run. What is drawn is a function of (seed, view,
    index) of a sample. No gradient goes through the drawing.

    References:
        [0] Agarwal et al. On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes. ICLR 2024.
            (``fraction`` is its lambda)

    Args:
        generation: How the responses are written.
        fraction: Share of the batches, between 0 and 1; or a schedule of it over the training.
        role: Who writes.
    """

    def __init__(
        self, generation: Generation, fraction: float | Callable[[Progress], float] = 0.5, role: str = "student"
    ) -> None:
        if not callable(fraction) and not 0 <= fraction <= 1:
            raise ValueError(f"rollout.fraction is a share of the batches, between 0 and 1, not {fraction}.")
        self.generation, self.role = generation, role
        self.fraction = fraction if callable(fraction) else Constant(fraction)

    def attach(self, data: Any) -> None:
        """Take the data module, whose tokenizer knows what ends a text."""
        self.generation = self.generation.of(data)

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The batch, or the student's continuation of its prompts."""
        role = role_of(roles, self.role)
        if "step" in batch and not coin(self.fraction(batch["progress"]), "coin", self.generation.seed, batch["step"]):
            return batch
        return continue_batch(batch, role, self.generation)
