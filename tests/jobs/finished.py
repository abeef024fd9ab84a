"""Finished runs for the tests of what comes after a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import QUICK, TINY

# Task -> what must be said beside it; metrics and the loss of the control follow from it.
TEXT_TASKS = {
    "classification": ["metrics=text_classification"],
    "regression": ["method=regression_kd"],
    "token_classification": [],
    "masked_lm": [],
    "causal_lm": ["model@teacher=tiny_gpt", "model@student=tiny_gpt"],
    "embedding": ["teacher.fit=null", "method=tinybert_general", "job=train"],
}
# Task -> the files that are written and tested.
TEXT_FILES = {
    "classification": "onnx,torch_export,onnx_int8,huggingface",
    "regression": "onnx,huggingface",
    "token_classification": "onnx,huggingface",
    "masked_lm": "onnx,onnx_int8,huggingface",
    "causal_lm": "onnx,torch_export,huggingface",
    "embedding": "onnx,huggingface",
}


def finished_text_run(folder: Path, task: str, *arguments: str) -> Path:
    """A finished pipeline on made-up texts, exported; of embeddings one training alone."""
    # Embeddings are compared as they are, so that student and teacher must be equally wide.
    wide = 32 if task == "embedding" else 48
    size = ["student.net.width=32", "student.net.layers=1", f"teacher.net.width={wide}", "teacher.net.layers=1"]
    start = ["data=synthetic_text", f"data.task={task}", "data.source.samples=120", "data.max_length=64", *QUICK,
             "trainer.max_epochs=1", "model@teacher=tiny_bert", "model@student=tiny_bert", *TEXT_TASKS[task],
             *size]  # fmt: skip
    run = finished_run(folder, *arguments, start=start)
    if "job=train" in start:
        command(folder, "job=export", f"run={run}", *arguments)
    return run


def finished_run(folder: Path, *arguments: str, start: Sequence[str] = TINY) -> Path:
    """A finished run below ``folder``: quick, on synthetic pictures of three classes unless ``start`` says else."""
    command(folder, *start, "name=finished", *arguments)
    return next(folder.glob("outputs/finished/*/status.json")).parent


def command(folder: Path, *arguments: str) -> None:
    """``python -m kd_lightning <arguments>`` in this process and this folder."""
    from hydra.core.global_hydra import GlobalHydra

    from kd_lightning.__main__ import main
    from kd_lightning.files import runs

    before, given = Path.cwd(), sys.argv
    runs.RUN_DIRS.clear()
    GlobalHydra.instance().clear()
    os.chdir(folder)
    sys.argv = ["kd_lightning", *arguments]
    try:
        main()
    finally:
        os.chdir(before)
        sys.argv = given


def pictures(folder: Path, count: int = 6, size: tuple[int, int] = (8, 8)) -> list[Path]:
    """Random colour pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    paths = []
    for i in range(count):
        paths.append(folder / f"{i}.png")
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths
