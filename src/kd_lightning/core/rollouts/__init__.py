"""Rollouts: rewrite the batch on the device before the step; without one the batch is used as it is."""

from kd_lightning.core.rollouts.generation import Generation
from kd_lightning.core.rollouts.minillm import MiniLLMSamples
from kd_lightning.core.rollouts.on_policy import OnPolicy
from kd_lightning.core.rollouts.protocol import Rollout
from kd_lightning.core.rollouts.teacher_generated import TeacherGenerated
from kd_lightning.core.rollouts.views import ClassPairs, Rotations, TwoViews

__all__ = [
    "ClassPairs",
    "Generation",
    "MiniLLMSamples",
    "OnPolicy",
    "Rollout",
    "Rotations",
    "TeacherGenerated",
    "TwoViews",
]
