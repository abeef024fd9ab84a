"""Two nodes of torchrun, on loopback: one run, one folder, every training finished."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import TINY

ONE_EACH = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_nodes_are_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    small = ["model@teacher=mlp", "model@student=mlp", "compare.cka=false", "compare.robustness=false"]
    arguments = ["-m", "kd_lightning", *TINY, *ONE_EACH, *small, "export.formats=[]", "name=nodes"]
    run = [sys.executable, "-m", "torch.distributed.run", *command]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*run, f"--node_rank={number}", *arguments], cwd=tmp_path, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in (0, 1)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    (folder,) = (tmp_path / "outputs/nodes").iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert {"teacher", "student alone", "student + kd"} == set(
        json.loads((folder / "metrics.json").read_text())["arms"]
    )
    assert "Report:" in said[0]
    assert "Report:" not in said[1]  # the first process speaks for all
