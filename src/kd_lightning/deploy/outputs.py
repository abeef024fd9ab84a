"""What an exported student answers with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_lightning.config.trust import check_named
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.registry import find_task


def task_of(preprocessing: Mapping[str, Any]) -> Task:
    """The task that preprocessing.json says; of pictures that were exported before it said so, classification.

    Raises:
        ValueError: It is one of another package, which the user does not trust.
    """
    check_named({"task": preprocessing.get("task")}, "preprocessing.json")
    return find_task(preprocessing.get("task", "classification"))
