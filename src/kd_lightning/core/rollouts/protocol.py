"""What a rollout is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kd_lightning.core.roles import Roles


class Rollout(Protocol):
    """What a method may do to the batch before its roles see it.

    In training the batch also has ``step`` (int), the number of batches before it, and ``progress``
    (:class:`~kd_lightning.core.schedules.Progress`); the example from which losses take their shapes has neither.
    """

    def __call__(self, batch: Mapping[str, Any], roles: Roles) -> Mapping[str, Any]:
        """The new batch; the given one must not be changed."""
        ...
