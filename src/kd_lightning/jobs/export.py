"""``job=export run=<folder>``: export the student of a finished run into ``<run>/export``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.jobs._arm import FittedArm
from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._comparison import read_record
from kd_lightning.jobs._export import export_student
from kd_lightning.jobs._load import load_run, required_run

log = logging.getLogger("kd_lightning")


def run(cfg: DictConfig, folder: Path) -> None:
    """Export into ``<run>/export``, or into this job's own folder where the run cannot be written."""
    given = Path(required_run(cfg))
    loaded = load_run(given)
    data = build_data(loaded.cfg)
    loaded.cfg.export = cfg.export
    arm = FittedArm(loaded.folder, loaded.net, read_record(loaded.folder))
    if not os.access(given, os.W_OK):
        log.warning(f"{given} cannot be written: the export goes into {folder}.")
        given = folder
    export_student(arm, data, given / "export", loaded.cfg)
