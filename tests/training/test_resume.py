"""A run that was stopped and resumed equals one that was not, bit for bit."""

import contextlib
import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.core.checkpoints import WholeCheckpoints, newest_whole
from kd_lightning.core.distiller import Distiller
from tests.conftest import TINY
from tests.jobs.finished import command

# 112 training samples in batches of 16: seven steps an epoch. The net has dropout, so the random state counts.
TRAIN = [
    *TINY,
    "job=train",
    "method=ce",
    "name=x",
    "trainer.max_epochs=3",
    "data.channels=1",
    "student.net._target_=tests.core.nets.Net",
]


def stop_at(monkeypatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal during a training step, once."""
    original = Distiller.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step and os.environ.pop("STOP_ONCE", None):
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setenv("STOP_ONCE", "1")
    monkeypatch.setattr(Distiller, "training_step", training_step)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of the run that was not stopped."""
    place = tmp_path_factory.mktemp("straight")
    command(place, *TRAIN, "hydra.run.dir=outputs/straight/a")
    return place / "outputs/straight/a"


def assert_same_end(straight, folder):
    """The student and the last checkpoint are those of the run that was not stopped, bit for bit."""
    expected, got = (load_file(f / "student.safetensors") for f in (straight, folder))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    last = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (straight, folder)]
    assert not [k for k, v in last[0]["state_dict"].items() if not torch.equal(v, last[1]["state_dict"][k])]
    assert last[0]["global_step"] == last[1]["global_step"]


@pytest.mark.parametrize("step", [0, 3, 6, 7, 9, 13, 14, 16, 19, 20])
def test_ctrl_c_saves_exits_130_and_resumes_exactly(cli, monkeypatch, step, straight):
    stop_at(monkeypatch, step, signal.SIGINT)
    stopped = cli(*TRAIN)
    assert stopped.code == 130, stopped.text
    assert "resume=auto" in stopped.text
    folder = next(p for p in Path("outputs/x").iterdir())
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert (folder / "checkpoints" / "interrupted.ckpt").is_file()

    resumed = cli(*TRAIN, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert "going on from interrupted.ckpt" in resumed.text
    assert len(list(Path("outputs/x").iterdir())) == 1
    assert_same_end(straight, folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_what_stops_a_resumed_run_before_it_begins_loses_nothing(cli, monkeypatch, error, straight):
    stop_at(monkeypatch, 9, signal.SIGINT)
    assert cli(*TRAIN).code == 130
    folder = next(Path("outputs/x").iterdir())
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}

    def on_fit_start(self):
        raise error

    with monkeypatch.context() as early, contextlib.suppress(RuntimeError):
        early.setattr(Distiller, "on_fit_start", on_fit_start)
        assert cli(*TRAIN, "resume=auto").code != 0
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    resumed = cli(*TRAIN, "resume=auto")
    assert "going on from interrupted.ckpt" in resumed.text
    assert_same_end(straight, folder)


@pytest.mark.parametrize(
    ("torn", "source"),
    [(["interrupted"], "going on from last.ckpt"), (["interrupted", "last"], "going on from best.ckpt"),
     (["interrupted", "last", "best"], None)],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_last_whole_one_taken(cli, monkeypatch, torn, source, straight):
    stop_at(monkeypatch, 16, signal.SIGINT)
    assert cli(*TRAIN).code == 130
    folder = next(Path("outputs/x").iterdir())
    for name in torn:
        path = folder / "checkpoints" / f"{name}.ckpt"
        path.write_bytes(path.read_bytes()[: 0 if name == "last" else path.stat().st_size // 2])
    resumed = cli(*TRAIN, "resume=auto")
    assert resumed.code == 0, resumed.text
    for name in torn:
        assert f"{name}.ckpt is damaged" in resumed.text
    assert (source or ": training ...") in resumed.text
    assert "going on from" not in resumed.text or source
    assert_same_end(straight, folder)


def test_the_furthest_checkpoint_is_taken_not_the_newest(tmp_path):
    for name, step in (("far", 9), ("near", 4)):
        torch.save({"global_step": step}, tmp_path / f"{name}.ckpt")
        os.utime(tmp_path / f"{name}.ckpt", (step == 4, step == 4))
    assert newest_whole(tmp_path.iterdir()) == tmp_path / "far.ckpt"


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    io, path = WholeCheckpoints(), tmp_path / "last.ckpt"
    io.save_checkpoint({"global_step": 1}, path)

    def full(content, handle):
        handle.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint({"global_step": 2}, path)
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"global_step": 1}


def test_sigterm_exits_143(cli, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGTERM)
    stopped = cli(*TRAIN)
    assert stopped.code == 143, stopped.text
    assert cli(*TRAIN, "resume=auto").code == 0


# Steps of three, three and one batch; a validation after the third and the sixth.
WINDOWS = [*TRAIN, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=3", "trainer.val_check_interval=3"]


@pytest.fixture(scope="module")
def straight_windows(tmp_path_factory):
    """The folder of the run that was not stopped."""
    place = tmp_path_factory.mktemp("windows")
    command(place, *WINDOWS, "hydra.run.dir=outputs/straight/a")
    return place / "outputs/straight/a"


def during(monkeypatch, batch, action):
    """Do something in a batch, counted over all epochs, once."""
    original = Distiller.training_step

    def training_step(self, data, batch_idx):
        if self.trainer.fit_loop.total_batch_idx == batch and os.environ.pop("STOP_ONCE", None):
            action()
        return original(self, data, batch_idx)

    monkeypatch.setenv("STOP_ONCE", "1")
    monkeypatch.setattr(Distiller, "training_step", training_step)


def signals(*numbers):
    def send():
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize(
    ("batch", "numbers", "code"),
    [
        (2, [signal.SIGTERM], 143),
        (8, [signal.SIGTERM], 143),
        (8, [signal.SIGINT], 130),
        pytest.param(13, [signal.SIGTERM], 143, marks=pytest.mark.slow),
        pytest.param(1, [signal.SIGINT, signal.SIGINT], 130, marks=pytest.mark.slow),
        (8, [signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_a_stop_between_accumulated_batches_resumes_exactly(cli, monkeypatch, batch, numbers, code, straight_windows):
    during(monkeypatch, batch, signals(*numbers))
    stopped = cli(*WINDOWS)
    assert stopped.code == code, stopped.text
    folder = next(p for p in Path("outputs/x").iterdir())
    assert (folder / "checkpoints/interrupted.ckpt").is_file() == (len(numbers) == 1)
    resumed = cli(*WINDOWS, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert_same_end(straight_windows, folder)


def test_what_an_error_leaves_within_a_step_is_not_taken_for_exact(cli, monkeypatch):
    def fail():
        raise RuntimeError("out of something")

    during(monkeypatch, 11, fail)
    with pytest.raises(RuntimeError, match="out of something"):
        cli(*WINDOWS)
    resumed = cli(*WINDOWS, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert "interrupted.ckpt was saved within a step, by an error" in resumed.text


def test_a_run_of_another_configuration_is_not_continued(cli, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGINT)
    assert cli(*TRAIN).code == 130
    other = cli(*TRAIN, "optimizer.lr=0.01", "resume=auto", "hydra.run.dir=outputs/x/other")
    assert other.code == 0
    assert "No unfinished run of this configuration" in other.text


def test_a_pipeline_goes_on_where_it_stopped(cli, monkeypatch):
    pipeline = [*TINY, "teacher.fit=null", "export.formats=[]", "name=p"]
    stop_at(monkeypatch, 10, signal.SIGINT)
    original = Distiller.training_step

    def only_distilled(self, batch, batch_idx):
        if "kd" in self.objective.terms:
            return original(self, batch, batch_idx)
        stop, value = os.environ.pop("STOP_ONCE", None), None
        value = original(self, batch, batch_idx)
        if stop:
            os.environ["STOP_ONCE"] = stop
        return value

    monkeypatch.setattr(Distiller, "training_step", only_distilled)
    assert cli(*pipeline).code == 130
    resumed = cli(*pipeline, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert "student alone, seed 0: finished earlier" in resumed.text
    assert cli(*pipeline, "resume=auto").code == 0  # nothing is left unfinished: a new run


def test_a_killed_run_goes_on_from_its_last_epoch(cli, monkeypatch, straight):
    """SIGKILL leaves no time to save: the state after the last whole epoch counts."""

    class Killed(BaseException):
        pass

    original = Distiller.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == 17 and os.environ.pop("KILL_ONCE", None):
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setenv("KILL_ONCE", "1")
    monkeypatch.setattr(Distiller, "training_step", training_step)
    with pytest.raises(Killed):
        cli(*TRAIN)
    folder = next(Path("outputs/x").iterdir())
    (folder / "checkpoints" / "interrupted.ckpt").unlink()
    resumed = cli(*TRAIN, "resume=auto")
    assert resumed.code == 0, resumed.text
    assert "going on from last.ckpt" in resumed.text
    assert_same_end(straight, folder)
