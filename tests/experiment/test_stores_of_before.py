"""What the first version made (before/make.sh) is found, used and gone on with: its names are not those of now."""

import errno
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kd_lightning import load_run
from kd_lightning.files.artifact import Artifact

BEFORE = Path(__file__).with_name("before")
FLIP = "data.augment=[{_target_: kd_lightning.data.images.augment.HorizontalFlip}]"
RUN = "2026-01-01_00-00-00"


# DKD's warm-up counted epochs from 0 then.
DKD_OF_BEFORE = "~method.terms.dkd.weight.first"


def command(name):
    """Arguments of the command that was recorded under a name."""
    lines = [line.split(" ", 1) for line in (BEFORE / "commands.txt").read_text().splitlines()]
    arguments = [argument for who, argument in lines if who in ("every", name)]
    return [*arguments, *([DKD_OF_BEFORE] if "method=dkd" in arguments else [])]


def contents(folder):
    """Every file below a folder that says what was found out, and its bytes."""
    names = ("*.safetensors", "arm.json", "store.json")
    return {path: path.read_bytes() for name in names for path in Path(folder).rglob(name)}


@pytest.fixture
def store(cli, tmp_path):
    """The folder of a user who has worked with the first version; gives the command line in it."""
    shutil.copytree(BEFORE / "store", tmp_path / "outputs")
    shutil.copy(BEFORE / "pictures.npz", tmp_path)

    def run(*arguments):
        outcome = cli(*arguments)
        assert outcome.code == 0, outcome.text
        outcome.text = " ".join(outcome.text.split())
        return outcome

    return run


@pytest.mark.parametrize("more", [[], [FLIP]], ids=["names of before", "names of now"])
def test_a_teacher_and_a_training_are_found(store, more, monkeypatch):
    def nobody_may_write(path, *_):
        raise PermissionError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("kd_lightning.training.store.exclusive", nobody_may_write)
    before = contents("outputs")
    outcome = store(*command("train"), f"hydra.run.dir=outputs/train/{RUN}", *more)
    assert "teacher mlp: finished earlier, taken from outputs/teachers/mlp-" in outcome.text
    assert "student mlp + kd: finished earlier, taken from" in outcome.text
    assert ": training ..." not in outcome.text
    assert contents("outputs") == before


@pytest.mark.parametrize("how", ["a byte", "cut"])
def test_a_damaged_teacher_is_made_anew(store, how):
    (folder,) = Path("outputs/teachers").iterdir()
    path = folder / "student.safetensors"
    content = bytearray(path.read_bytes())
    if how == "a byte":
        Artifact.open(folder).close()  # that of before has no checksums
        content[-1] ^= 1
    path.write_bytes(content[:-9] if how == "cut" else content)
    outcome = store(*command("train"))
    assert outcome.text.count("student.safetensors is damaged") == 1
    assert "It is made anew. teacher mlp: training ..." in outcome.text
    assert Artifact.open(folder).damage() is None
    assert "teacher mlp: finished earlier" in store(*command("train"), "method=ce", "job=pipeline").text


def test_no_cell_of_a_study_is_trained_again_but_dkd_which_counts_otherwise_now(store):
    before = contents("outputs/studies") | contents("outputs/teachers")
    assert {path.parent.name.split("-")[0] for path in before} == {"mlp", "ce", "kd", "dkd"}
    outcome = store(*command("study"))
    assert "3 trainings of mlp, 2 finished earlier" in outcome.text
    assert outcome.text.count("teacher mlp: finished earlier, taken from outputs/teachers/mlp-") == 1
    assert outcome.text.count(": training ...") == 1
    after = contents("outputs/studies") | contents("outputs/teachers")
    assert {path: after[path] for path in before} == before
    assert {path.parent.name.split("-")[0] for path in set(after) - set(before)} == {"dkd"}
    study = json.loads((outcome.folder / "study.json").read_text())
    assert set(study["arms"]) == {"teacher", "student alone", "student + kd", "student + dkd"}
    assert not study["missing"]


@pytest.mark.parametrize(
    "more",
    [["job=cache"], ["job=train", "method=dkd", "teacher.cache=read", FLIP]],
    ids=["names of before", "names of now"],
)
def test_stored_signals_are_read(store, more):
    before = contents("outputs/cache")
    outcome = store(*command("signals"), *more)
    assert "teacher mlp: finished earlier" in outcome.text
    stored = "teacher cache: reading logits (3), 1 view of 67 samples, stored earlier in outputs/cache/"
    assert stored in outcome.text
    assert "writing" not in outcome.text
    assert contents("outputs/cache") == before
    assert len(list(Path("outputs/cache").iterdir())) == 1


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("more", [[], [FLIP]], ids=["names of before", "names of now"])
def test_an_unfinished_run_is_gone_on_with(store, more):
    folder = Path("outputs/unfinished") / RUN
    outcome = store(*command("unfinished"), "resume=auto", *more)
    for line in ("Going on with an unfinished run.", "going on from interrupted.ckpt", "teacher mlp: finished earlier"):
        assert line in outcome.text
    assert outcome.text.count(": training ...") == 1
    assert list(folder.parent.iterdir()) == [folder]
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    record = json.loads((folder / "arm.json").read_text())
    assert record["epochs"] == 3
    stopped, last = (
        torch.load(path / "checkpoints" / name, weights_only=True)["global_step"]
        for path, name in ((BEFORE / "store/unfinished" / RUN, "interrupted.ckpt"), (folder, "last.ckpt"))
    )
    assert (stopped, last) == (7, 12)


def test_a_training_is_loaded_and_answers_as_it_did(store):
    folder = Path("outputs/train") / RUN
    assert "_target_: kd_lightning.data.module.KDDataModule" in (folder / "config.yaml").read_text()
    said, split = (load_file(folder / name) for name in ("test.safetensors", "split.safetensors"))
    pictures = torch.from_numpy(np.load("pictures.npz")["x"])[split["test"][said["index"]]]
    answer = load_run(folder).net((pictures / 255 - 0.5) / 0.25)
    torch.testing.assert_close(answer, said["logits"], rtol=1e-4, atol=1e-5)
    top1 = json.loads((folder / "arm.json").read_text())["test"]["best"]["top1"]
    assert f"top1 {top1:.4f}" in store("job=evaluate", f"run={folder}").text


NAMES = [
    ("losses._common.full_precision", "losses.ops.common.full_precision"),
    ("data.sources.digits.Digits", "data.images.sources.digits.Digits"),
    ("teachers.store.Store", "cache.store.Store"),
    ("deploy.prune.pruned_teacher", "models.compress.prune.pruned_teacher"),
]


def forget(monkeypatch, module):
    """As if no module had been imported by its name of before."""
    parent, _, name = f"kd_lightning.{module}".rpartition(".")
    monkeypatch.delitem(sys.modules, f"{parent}.{name}", raising=False)
    monkeypatch.delattr(importlib.import_module(parent), name, raising=False)


@pytest.mark.parametrize(("old", "now"), NAMES, ids=lambda name: name)
def test_a_name_of_before_is_imported_with_one_line(monkeypatch, caplog, old, now):
    (module, name), (present, _) = old.rsplit(".", 1), now.rsplit(".", 1)
    forget(monkeypatch, module)
    assert getattr(importlib.import_module(f"kd_lightning.{module}"), name) is getattr(
        importlib.import_module(f"kd_lightning.{present}"), name
    )
    importlib.import_module(f"kd_lightning.{module}")
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"kd_lightning.{module} is now kd_lightning.{present}"]


def test_names_of_before_in_a_users_own_yaml(store, monkeypatch, tmp_path):
    own = tmp_path / "mine" / "data" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "defaults: [tensors, _self_]\n_target_: kd_lightning.data.module.KDDataModule\n"
        "source: {_target_: kd_lightning.data.sources.tensors.Tensors}\n"
    )
    for module in ("data.module", "data.sources.tensors", "data.augment"):
        forget(monkeypatch, module)
    arguments = ["data=own" if argument == "data=tensors" else argument for argument in command("signals")]
    outcome = store("--config-dir", "mine", *arguments)
    assert "teacher mlp: finished earlier" in outcome.text
    assert "teacher cache: reading logits" in outcome.text
    for name in ("module", "sources.tensors", "augment"):
        assert outcome.text.count(f"kd_lightning.data.{name} is now kd_lightning.data.images.{name}") == 1


def test_another_configuration_is_not_taken_for_it(store):
    outcome = store(*command("train"), "optimizer.lr=0.01")
    assert outcome.text.count(": training ...") == 2
