"""Two processes on the CPU (gloo) learn what one process learns from the same global batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY

# No batch norm: its statistics are a process's own, as everywhere in DDP.
TRAIN = [*TINY, "job=train", "teacher.fit=null", "model@student=mlp", "optimizer.momentum=0.9"]


def kd(*arguments: str, cwd: Path) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kd_lightning", *TRAIN, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_equal_one(tmp_path):
    kd("hydra.run.dir=outputs/one", cwd=tmp_path)
    kd("hydra.run.dir=outputs/two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", cwd=tmp_path)
    one, two = (load_file(tmp_path / "outputs" / name / "student.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    logits = [load_file(tmp_path / "outputs" / name / "test.safetensors")["logits"] for name in ("one", "two")]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("trainer", ["ddp", "ddp_spawn"])
def test_a_pipeline_says_everything_once(tmp_path, trainer):
    arguments = ["job=pipeline", f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2"]
    text = kd(*arguments, "export.formats=[]", cwd=tmp_path)
    for line in ("kd_lightning 0", "Plan:", "student alone, seed 0: training", "Agreement with teacher", "Report:"):
        assert text.count(line) == 1, text
    assert len(list(tmp_path.rglob("report.html"))) == 1
