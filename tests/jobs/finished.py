"""Finished runs for the tests of what comes after a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import TINY


def finished_run(folder: Path, *arguments: str) -> Path:
    """A finished pipeline below ``folder``: quick, on synthetic pictures of three classes."""
    from hydra.core.global_hydra import GlobalHydra

    from kd_lightning import runs
    from kd_lightning.__main__ import main

    before, given = Path.cwd(), sys.argv
    runs._RUN_DIRS.clear()
    GlobalHydra.instance().clear()
    os.chdir(folder)
    sys.argv = ["kd_lightning", *TINY, "name=finished", *arguments]
    try:
        main()
    finally:
        os.chdir(before)
        sys.argv = given
    return next(folder.glob("outputs/finished/*/status.json")).parent


def pictures(folder: Path, count: int = 6, size: tuple[int, int] = (8, 8)) -> list[Path]:
    """Random colour pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i}.png")
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths
