"""``job=export run=<folder>``: export the student of a finished run into ``<run>/export``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.deploy.export import export_student
from kd_lightning.experiment.settle import reopen
from kd_lightning.files.artifact import required_run
from kd_lightning.training.nets import load_run

log = logging.getLogger("kd_lightning")


def run(command: Command, folder: Path) -> None:
    """Export into ``<run>/export``, or into this job's own folder where the run cannot be written."""
    given = required_run(command.settings)
    artifact = load_run(given)
    if not os.access(given, os.W_OK):
        log.warning(f"{given} cannot be written: the export goes into {folder}.")
        given = folder
    export_student(artifact, reopen(artifact, command.settings.export), given / "export")
