"""A run that still works is left alone, and one that does not is gone on with, whoever has its number now."""

import errno
import multiprocessing
import os
import threading
import time

import pytest

from kd_lightning.config.explain import explain
from kd_lightning.files import lock
from kd_lightning.files.alive import beating, is_alive, owner
from kd_lightning.files.lock import exclusive, in_use, is_held
from kd_lightning.files.runs import STATUS, unfinished, write_status


@pytest.fixture
def run(tmp_path):
    """A run folder that says it is running."""
    folder = tmp_path / "x/a"
    folder.mkdir(parents=True)

    def says(**changes):
        write_status(folder, state="running", fingerprint="f", **{**owner(), **changes})
        return unfinished(tmp_path / "x", "f")

    return folder, says


@pytest.fixture
def other():
    """What another living process says of itself."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: (theirs.send(owner()), theirs.recv()), daemon=True)
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join()


def test_a_number_that_was_given_again_hides_no_unfinished_run(run, other):
    folder, says = run
    assert says(**other) is None
    assert says(**{**other, "started": "of before 1"}) == folder
    with in_use(folder):
        assert says(**{**other, "started": None}) is None  # where the system does not tell, the lock does
    assert says(**{**other, "started": None}) == folder
    assert says(pid=2**22 + 1) == folder


def test_a_run_on_another_machine_counts_as_alive_while_it_holds_its_lock(run):
    folder, says = run
    with in_use(folder):
        assert says(host="elsewhere") is None
        assert is_held(folder)


def test_where_locks_are_not_shared_signs_of_life_tell(run, caplog):
    folder, says = run
    says()
    path, status = folder / STATUS, {"state": "running", "host": "elsewhere", "pid": 1}
    with beating(path, 0.05):
        assert is_alive(folder, path, status, beat=0.1)
    assert "looking for a sign of life" in caplog.text
    assert not is_alive(folder, path, status, beat=0.1)
    os.utime(path, (1, 1))
    assert not is_alive(folder, path, status, beat=1000)  # so old that nobody waits


def test_a_command_waits_for_the_workers_of_a_killed_one(tmp_path, monkeypatch):
    holding, done = threading.Event(), threading.Event()

    def hold():
        with exclusive(tmp_path):
            holding.set()
            done.wait(0.4)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    with in_use(tmp_path) as mine:
        assert mine
    thread.join()
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    start = time.monotonic()
    with exclusive(tmp_path), in_use(tmp_path) as mine:
        assert not mine
    assert time.monotonic() - start < 5


def test_a_file_system_without_locks_is_named_and_used(tmp_path, monkeypatch, caplog):
    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with exclusive(tmp_path / "lock") as mine, in_use(tmp_path) as too:
        assert mine
        assert too
    assert caplog.text.count("this file system has no locks (No locks available)") == 1


def test_only_a_full_disk_is_called_full():
    assert explain(OSError(errno.ENOSPC, "No space left on device", "f")).endswith("f (is the disk full?)")
    assert explain(OSError(errno.EIO, "Input/output error", "f")) == "Error: Input/output error: f"
    assert "yours to write to" in explain(OSError(errno.EROFS, "Read-only file system", "f"))
