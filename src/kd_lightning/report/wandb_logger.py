"""Weights & Biases: online when logged in, offline otherwise; never a prompt."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.loggers import WandbLogger


def logged_in() -> bool:
    """Whether W&B knows a key, from the environment or from ``wandb login``; asks nobody."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def wandb_logger(
    project: str,
    entity: str | None = None,
    save_dir: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] | None = None,
    offline: bool | None = None,
    **options: Any,
) -> WandbLogger:
    """A logger that works on every machine.

    Args:
        project: W&B project.
        entity: User or team; None for the default.
        save_dir: Folder below which offline runs lie.
        name: Name of the run: which arm it is.
        group: What the runs of one pipeline share.
        job_type: teacher, alone or distilled.
        tags: Free tags.
        offline: None: online where W&B knows a key and WANDB_MODE does not say otherwise.
        options: Further arguments of ``wandb.init``.
    """
    if offline is None:
        offline = os.environ.get("WANDB_MODE", "online") != "online" or not logged_in()
    return WandbLogger(
        project=project,
        entity=entity,
        save_dir=save_dir or ".",
        name=name,
        group=group,
        job_type=job_type,
        tags=tags,
        offline=offline,
        settings={"silent": True},
        **options,
    )
