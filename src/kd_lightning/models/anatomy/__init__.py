"""What may be tapped: the places of a net, found by structure, traced, or named by the user."""

from kd_lightning.models.anatomy.places import Anatomy

__all__ = ["Anatomy"]
