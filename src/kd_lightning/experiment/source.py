"""Where a frozen role has come from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from kd_lightning.config.schema import Frozen
from kd_lightning.files.artifact import Artifact


@dataclass(frozen=True)
class Source:
    """A frozen role that is there.

    Attributes:
        name: Of the role.
        role: How it is set.
        net: In eval mode.
        artifact: What its training left, where it was trained here or before.
    """

    name: str
    role: Frozen
    net: nn.Module
    artifact: Artifact | None = None
