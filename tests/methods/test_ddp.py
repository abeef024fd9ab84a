"""Methods that are hard under several processes, from the command line, in two processes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
TWO = ["job=train", "teacher.fit=null", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def train(folder: Path, *arguments: str) -> Path:
    """Run two processes; returns the run's folder."""
    command = [sys.executable, "-m", "kd_lightning", *TINY, *TWO, "hydra.run.dir=run", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_both_processes_have_the_whole_memory_of_crd(tmp_path):
    run = train(tmp_path, "method=crd", "+callbacks.memory._target_=tests.methods.probe.Memory")
    first, second = (torch.load(run / f"memory_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert {name.rpartition(".")[2] for name in first} >= {"memory_student", "memory_teacher", "labels", "normalisers"}
    for name, value in first.items():
        assert torch.equal(second[name], value), name
        if name.endswith("labels"):
            assert (value >= 0).all()  # 112 samples in batches of 16: every one was seen, by one process or the other
        elif "memory" in name:
            torch.testing.assert_close(value.norm(dim=1), torch.ones(len(value)))  # fresh rows are not of unit length
            assert len(value) == 112


def test_stages_leave_out_parts_of_the_student(tmp_path):
    run = train(tmp_path, "method=fsp", "+callbacks.probe._target_=tests.methods.probe.Steps")
    steps = json.loads((run / "steps.json").read_text())
    assert [step["terms"] for step in steps] == [["fsp"]] * 2 + [["ce"]] * 12  # 11.1 % of 14
    for step in steps:
        assert ("student.fc.weight" in step["changed"]) == (step["terms"] == ["ce"])
    assert all("student.layer3.0.conv2.weight" in step["changed"] for step in steps)
    assert all(torch.isfinite(value).all() for value in load_file(run / "student.safetensors").values())
