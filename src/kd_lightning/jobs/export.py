"""``job=export run=<folder>``: export the student of a finished run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.jobs._arm import FittedArm
from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._comparison import read_record
from kd_lightning.jobs._export import export_student
from kd_lightning.jobs._load import load_run, required_run


def run(cfg: DictConfig, folder: Path) -> None:
    """Export into ``<run>/export``, or into this job's own folder where the run cannot be written."""
    loaded = load_run(required_run(cfg))
    data = build_data(loaded.cfg)
    loaded.cfg.export = cfg.export
    arm = FittedArm(loaded.folder, loaded.net, read_record(loaded.folder))
    export_student(arm, data, folder / "export", loaded.cfg)
