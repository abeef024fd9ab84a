"""Which process is the first: under torchrun, srun and Lightning's own launcher, on one node and on several."""

import threading

import pytest

from kd_lightning.core import ranks
from kd_lightning.core.ranks import is_main_process, local_rank, said_by_first

TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("env", "first", "on_its_machine"),
    [
        ({}, True, None),
        (TORCHRUN, True, 0),
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}, False, 1),
        # the first of the second node, which has the local rank 0 and, under torchrun, no NODE_RANK
        (TORCHRUN | {"RANK": "2", "GROUP_RANK": "1"}, False, 0),
        (TORCHRUN | {"RANK": "2", "GROUP_RANK": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, False, 0),
        (SRUN, True, 0),
        (SRUN | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, False, 1),
        (SRUN | {"SLURM_PROCID": "2", "SLURM_NODEID": "1"}, False, 0),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}, True, None),  # sbatch without srun
        # a process that Lightning started there
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1", "LOCAL_RANK": "1"}, False, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True, 0),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False, 0),
        ({"NODE_RANK": "1"}, False, None),
    ],
)
def test_who_is_first(env, first, on_its_machine):
    assert is_main_process(env) == first
    assert local_rank(env) == on_its_machine


def under(monkeypatch, env):
    for name in [*TORCHRUN, *SRUN, "NODE_RANK", "TORCHELASTIC_USE_AGENT_STORE"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_alone_a_process_asks_itself(monkeypatch, tmp_path):
    under(monkeypatch, {})
    assert said_by_first(lambda: "mine", tmp_path) == "mine"
    assert not list(tmp_path.iterdir())


def test_the_tasks_of_a_step_take_the_folder_of_the_first(monkeypatch, tmp_path):
    step = SRUN | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    heard = []
    under(monkeypatch, step | {"SLURM_PROCID": "2"})
    waiting = threading.Thread(target=lambda: heard.append(said_by_first(lambda: "another", tmp_path)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    under(monkeypatch, step)
    assert said_by_first(lambda: "first", tmp_path) == "first"
    waiting.join(10)
    assert heard == ["first"]
    under(monkeypatch, step | {"SLURM_STEP_ID": "1"})  # the next step of the job starts anew
    assert said_by_first(lambda: "second", tmp_path) == "second"


def test_who_waits_in_vain_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, "PATIENCE", 0.2)
    under(monkeypatch, SRUN | {"SLURM_PROCID": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"})
    with pytest.raises(TimeoutError, match="did not name the run's folder"):
        said_by_first(lambda: "mine", tmp_path)
