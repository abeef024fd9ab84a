"""Not a byte of what a training left is changed without being found, and named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from kd_lightning.core.checkpoints import check_whole, newest_whole
from kd_lightning.files import checksum as sums
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.checksum import DamagedFileError, checksum
from kd_lightning.training.fit import find
from kd_lightning.training.nets import checkpoint_file, load_run

RUN = Path(__file__).parents[1] / "experiment/before/store/train/2026-01-01_00-00-00"
USED = {
    "student.safetensors": lambda run: load_run(run),
    "test.safetensors": lambda run: Artifact.open(run).answers,
    "validation.safetensors": lambda run: Artifact.open(run).validation,
    "arm.json": lambda run: Artifact.open(run),
}


def flip(path, place, bit=0):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path):
    """A finished training with its checksums."""
    shutil.copytree(RUN, tmp_path / "run")
    Artifact.open(tmp_path / "run").close()
    return tmp_path / "run"


@pytest.mark.parametrize("name", USED)
def test_a_changed_byte_is_found_and_named(run, name):
    path = run / name
    whole, identity = path.read_bytes(), Artifact.open(run).record["identity"]
    assert find(run, identity) is not None
    for place in range(0, len(whole), max(1, len(whole) // 7)):
        flip(path, place, place % 8)
        with pytest.raises(DamagedFileError, match=rf"{path} is damaged"):
            USED[name](run)
        assert find(run, identity) is None
        path.write_bytes(whole)
    USED[name](run)
    path.write_bytes(whole[:-5])
    with pytest.raises(DamagedFileError, match=rf"{path} is damaged"):
        USED[name](run)


def test_weights_that_others_start_from_are_looked_at_too(run):
    assert checkpoint_file(str(run)) == checkpoint_file(str(run / "student.safetensors"))
    flip(run / "student.safetensors", -1)
    for given in (run, run / "student.safetensors"):
        with pytest.raises(DamagedFileError, match="damaged"):
            checkpoint_file(str(given))


def test_of_a_training_of_before_a_cut_file_is_found(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    found = Artifact.open(tmp_path / "run")
    assert found.damage() is None
    found.weights.write_bytes(found.weights.read_bytes()[:-100])
    assert "student.safetensors is damaged" in found.damage()
    assert find(found.folder, found.record["identity"]) is None


def test_a_file_is_read_through_once(run, monkeypatch):
    path = run / "student.safetensors"
    checksum(path)
    with monkeypatch.context() as patch:
        patch.setattr(sums.hashlib, "file_digest", None)
        assert checksum(path) == Artifact.open(run).record["files"][path.name]
    assert json.loads((run / "arm.json").read_text())["files"].keys() == USED.keys() - {"arm.json"}


def test_a_changed_byte_of_a_checkpoint_is_found(tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    content = {"global_step": 3, "state_dict": {"w": torch.arange(400.0)}}
    torch.save(content, path)
    whole = path.read_bytes()
    for place in (whole.index(torch.arange(400.0).numpy().tobytes()) + 800, whole.index(b"global_step") + 2):
        flip(path, place)
        with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
            check_whole(path)
        assert newest_whole(tmp_path.glob("*.ckpt")) is None
        assert "last.ckpt is damaged and set aside" in caplog.text
        caplog.clear()
        path.write_bytes(whole)
    check_whole(path)


def test_a_checkpoint_that_counts_on_a_damaged_one_is_not_gone_on_from(tmp_path, caplog):
    for name, step in (("best", 1), ("last", 2)):
        state = {"ModelCheckpoint{}": {"monitor": "val/top1", "best_model_path": "/elsewhere/best.ckpt"}}
        state["ModelCheckpoint{last}"] = {"monitor": None, "best_model_path": "/elsewhere/interrupted.ckpt"}
        torch.save({"global_step": step, "callbacks": state, "w": torch.ones(50)}, tmp_path / f"{name}.ckpt")
    (tmp_path / "interrupted.ckpt").write_bytes(b"half")
    assert newest_whole(tmp_path.glob("*.ckpt")).name == "last.ckpt"
    path = tmp_path / "best.ckpt"
    kept = path.read_bytes()
    path.unlink()  # of a folder that was copied without it the rest is good
    assert newest_whole(tmp_path.glob("*.ckpt")).name == "last.ckpt"
    path.write_bytes(kept)
    flip(path, path.read_bytes().index(torch.ones(50).numpy().tobytes()))
    assert newest_whole(tmp_path.glob("*.ckpt")) is None
    assert "last.ckpt counts on best.ckpt" in caplog.text
