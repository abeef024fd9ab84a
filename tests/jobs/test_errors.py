"""Bad input: a clear error, in one paragraph, before anything is trained, and nothing is lost."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kd_lightning.files.lock import in_use
from tests.conftest import QUICK, TINY

TRAIN = [*TINY, "job=train", "method=ce"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.max_epoch=3"], "Unknown key 'trainer.max_epoch'. Did you mean max_epochs"),
        (["trainer.max_epochs=abc"], "Value 'abc' of type 'str' could not be converted to Integer"),
        (["model@student=resnet9"], "Unknown choice model=resnet9. Did you mean"),
        (["+experiment=digit_resnet"], "Unknown choice experiment=digit_resnet. Did you mean digits_resnet"),
        (["method=kdd"], "Unknown choice method=kdd. Did you mean"),
        (["job=trian"], "Unknown job 'trian'. Did you mean train"),
        (["select=first"], "select=first: choose best"),
        (["resume=yes"], "resume=yes: choose auto or never"),
        (["+optimizer.lrr=1"], "optimizer: torch.optim.SGD takes no argument 'lrr'. Did you mean lr?"),
        (["student.net._target_=kd_lightning.models.resnet.resnet9"], "student.net: cannot import"),
        (["student.net.num_classes=7"], "The student answers with 7 classes, the data (synthetic) has 3"),
        (["student.checkpoint=nowhere.pt"], "checkpoint=nowhere.pt: no such file or run folder"),
        (["ckpt_path=nowhere.ckpt"], "ckpt_path=nowhere.ckpt: no such checkpoint"),
        (
            ["metrics=regression"],
            "data.task=regression; for data.task=classification take metrics=classification, or metrics=auto",
        ),
        (["data.val_fraction=0"], "no validation split, so no weights can be chosen as best"),
    ],
)
def test_mistakes_on_the_command_line(cli, arguments, message):
    outcome = cli(*TRAIN, *arguments)
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text
    assert not list(Path().rglob("student.safetensors"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# @package _global_\ntrainer: {max_epoch: 3}\n", "Unknown key 'trainer.max_epoch'. Did you mean max_epochs"),
        ("# @package _global_\ntrainer: {max_epochs: [}\n", "own.yaml"),
        ("# @package _global_\ntrainr: {max_epochs: 3}\n", "Unknown key 'trainr'. Did you mean trainer"),
        ("# @package _global_\ntrainer: {max_epochs: many}\n", "could not be converted to Integer"),
    ],
)
def test_mistakes_in_a_yaml_of_ones_own(cli, tmp_path, text, message):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text)
    outcome = cli("--config-dir", "./mine", "+experiment=own", *TRAIN)
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text


def test_teacher_of_other_classes(cli):
    outcome = cli(*TINY, "job=train", "teacher.fit=null", "teacher.net.num_classes=5")
    assert outcome.code == 1
    assert "The teacher answers with 5 classes, the data (synthetic) has 3" in outcome.text


def test_a_tap_that_does_not_exist_lists_those_that_do(cli):
    outcome = cli(*TINY, "job=train", "teacher.fit=null", "method.terms.kd.inputs.student=student.layer9")
    assert outcome.code == 1
    assert "student (ResNet) has no submodule 'layer9'" in outcome.text
    assert "layer1" in outcome.text


def test_checkpoint_of_another_model(cli, tmp_path):
    save_file({"a.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    outcome = cli(*TRAIN, "student.checkpoint=other.safetensors")
    assert outcome.code == 1
    assert "holds the weights of another model" in outcome.text


def test_broken_checkpoint(cli, tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    outcome = cli(*TRAIN, "student.checkpoint=broken.pt")
    assert outcome.code == 1
    assert "broken.pt" in outcome.text
    assert "Traceback" not in outcome.text


def test_missing_data_says_where_to_put_it(cli):
    outcome = cli(*QUICK, "job=train", "data=cifar10", "data.root=nowhere", "data.source.download=false")
    assert outcome.code == 1
    assert "nowhere" in outcome.text
    assert "cifar-10" in outcome.text


def test_foreign_arrays(cli, tmp_path):
    np.savez(tmp_path / "arrays.npz", pictures=np.zeros((4, 2)))
    outcome = cli(*QUICK, "data=tensors", "data.root=.", "job=train", "method=ce", "model@student=mlp")
    assert outcome.code == 1
    assert "pictures" in outcome.text


def pictures(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


FOLDER = [*QUICK, "job=train", "method=ce", "data=image_folder", "data.root=pictures", "data.image_size=8"]


def test_empty_class_folder(cli, tmp_path):
    pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "horse").mkdir()
    outcome = cli(*FOLDER)
    assert outcome.code == 1
    assert "horse" in outcome.text


def test_broken_pictures_are_counted_and_named(cli, tmp_path):
    pictures(tmp_path / "pictures")
    for name in ("3.png", "5.png"):
        (tmp_path / "pictures" / "dog" / name).write_bytes(b"\x89PNG broken")
    outcome = cli(*FOLDER)
    assert outcome.code == 1
    assert "2 " in outcome.text
    assert "3.png" in outcome.text
    assert "5.png" in outcome.text
    assert "Traceback" not in outcome.text


def test_loss_that_is_not_finite_keeps_the_last_good_checkpoint(cli):
    # The rate explodes after the first epoch, which is saved.
    explode = ["scheduler=multistep", "scheduler.factory.milestones=[1]", "scheduler.factory.gamma=1e30"]
    outcome = cli(*TRAIN, "trainer.max_epochs=4", *explode)
    assert outcome.code == 1
    assert "The loss is not finite at step" in outcome.text
    assert "term(s): ce" in outcome.text
    assert json.loads((outcome.folder / "status.json").read_text())["state"] == "failed"
    saved = list((outcome.folder / "checkpoints").glob("*.ckpt"))
    assert saved
    assert not [p for p in saved if p.stem == "interrupted"]
    state = torch.load(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(v).all() for v in state.values())


def test_output_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "outputs").write_text("in the way")
    outcome = cli(*TRAIN)
    assert outcome.code == 1
    assert "outputs" in outcome.text
    assert "Traceback" not in outcome.text


def test_a_full_disk_is_said(cli, monkeypatch):
    import errno

    from kd_lightning.training import fit

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "student.safetensors")

    monkeypatch.setattr(fit, "save_file", full)
    outcome = cli(*TRAIN)
    assert outcome.code == 1
    assert "No space left on device: student.safetensors" in outcome.text
    assert "Traceback" not in outcome.text


def test_sweep_with_subprocess_ddp_is_refused_with_the_way_out(cli):
    outcome = cli("-m", *TRAIN, "trainer=ddp", "seed=0,1")
    assert outcome.code == 1
    assert "trainer=ddp_spawn" in outcome.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job=export"], "job=export works on a finished run"),
        (["job=evaluate", "run=nowhere"], "nowhere holds no finished student"),
        (["job=predict", "run=nowhere", "inputs=[x.png]"], "nowhere: no such folder. Give that of a finished run, or"),
        (["job=compare"], "job=compare needs run folders"),
        (["job=compare", "runs=nowhere/*"], "no finished training at or below 'nowhere/*'"),
    ],
)
def test_jobs_on_runs_that_are_not_there(cli, arguments, message):
    outcome = cli(*TINY, *arguments)
    assert outcome.code == 1
    assert message in outcome.text


def test_two_commands_of_the_same_second_have_a_folder_each(cli, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1)

    monkeypatch.setattr("kd_lightning.files.runs.datetime", Stopped)
    for _ in range(3):
        assert cli("job=methods", "name=x").code == 0
    folders = sorted(path.name for path in Path("outputs/x").iterdir())
    assert folders == ["2026-01-01_00-00-00", "2026-01-01_00-00-00_2", "2026-01-01_00-00-00_3"]
    assert all((Path("outputs/x") / name / "status.json").is_file() for name in folders)


def test_a_folder_in_use_is_left_alone(cli, monkeypatch):
    monkeypatch.setattr("kd_lightning.files.lock.PATIENCE", 0.2)
    folder = Path("outputs/x/a")
    folder.mkdir(parents=True)
    with in_use(folder):
        outcome = cli("job=methods", f"hydra.run.dir={folder}")
    assert outcome.code == 1
    assert "outputs/x/a is in use by another command" in outcome.text
    assert not (folder / "status.json").exists()
    assert cli("job=methods", f"hydra.run.dir={folder}").code == 0
