"""Two processes on the CPU (gloo) learn what one process learns from the same global batch."""

import os
import signal
import subprocess
import sys
import time
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


def test_a_lost_process_is_told_in_a_sentence(cli, monkeypatch):
    said = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:21877"

    def lost(self, batch, batch_idx):
        raise RuntimeError(said)

    monkeypatch.setattr("kd_lightning.core.distiller.Distiller.training_step", lost)
    outcome = cli(*TRAIN)
    assert outcome.code == 1
    assert "Error: Another process of this training has ended" in outcome.text
    assert "resume=auto goes on from the last checkpoint" in outcome.text
    assert "Traceback" not in outcome.text


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_with_a_word_of_how_to_go_on(tmp_path):
    arguments = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=100000"]
    command = [sys.executable, "-m", "kd_lightning", *TRAIN, *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + 200
        while not list(tmp_path.rglob("checkpoints/last.ckpt")) and time.monotonic() < until:
            time.sleep(0.5)
        tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
        children = [one for path in tasks for one in path.read_text().split()]
        lines = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in children}
        (other,) = (int(one) for one, line in lines.items() if b"kd_lightning" in line)
        os.kill(other, signal.SIGKILL)
        text, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode != 0
    assert "resume=auto" in text, text
    assert len(text.splitlines()) < 40, text


@pytest.mark.parametrize("trainer", ["ddp", "ddp_spawn"])
def test_a_pipeline_says_everything_once(tmp_path, trainer):
    arguments = ["job=pipeline", f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2"]
    text = kd(*arguments, "export.formats=[]", cwd=tmp_path)
    for line in ("kd_lightning 0", "Plan:", "student alone, seed 0: training", "Agreement with teacher", "Report:"):
        assert text.count(line) == 1, text
    assert len(list(tmp_path.rglob("report.html"))) == 1
