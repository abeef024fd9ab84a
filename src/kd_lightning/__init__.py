"""kd_lightning: knowledge distillation on PyTorch Lightning and Hydra.

Importing this package is instant: heavy libraries are imported by the modules that use them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd_lightning.jobs._load import LoadedRun

__version__ = "0.1.0"


def load_run(folder: str | Path) -> LoadedRun:
    """The student of a finished run, rebuilt from its configuration and weights.

    Args:
        folder: Folder of a pipeline, or of one arm.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
    """
    from kd_lightning.jobs._load import load_run as load

    return load(folder)
