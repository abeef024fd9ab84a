"""kd_lightning: knowledge distillation on PyTorch Lightning and Hydra.

Importing this package is instant: heavy libraries are imported by the modules that use them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kd_lightning.config import renamed
from kd_lightning.version import __version__

if TYPE_CHECKING:
    from kd_lightning.files.artifact import Artifact

__all__ = ["__version__", "load_run"]

renamed.install()


def load_run(folder: str | Path) -> Artifact:
    """The student of a finished run with its ``net``, rebuilt from its ``settings`` and weights.

    Args:
        folder: Folder of a pipeline, or of one arm.

    Raises:
        FileNotFoundError: Where the folder is no finished run.
    """
    from kd_lightning.training.nets import load_run as load

    return load(folder)
