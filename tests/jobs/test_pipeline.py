"""The main job, end to end, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from kd_lightning import load_run
from tests.conftest import TINY

DIGITS = ["+experiment=digits_resnet", "trainer=smoke", "compare.latency=false", "model@teacher=resnet8"]


@pytest.fixture
def run(cli):
    """A finished pipeline on digits with two seeds."""
    outcome = cli(*DIGITS, "seeds=[0,1]")
    assert outcome.code == 0, outcome.text
    return outcome


def test_the_whole_way(run, cli, tmp_path):
    folder = run.folder
    for name in ("report.html", "report.md", "metrics.json", "split.safetensors", "status.json", "export/student.onnx"):
        assert (folder / name).is_file(), name
    for line in ("Top-1", "Agreement with teacher", "FLOPs", "teacher", "student alone", "student + kd"):
        assert line in run.text
    numbers = json.loads((folder / "metrics.json").read_text())
    assert set(numbers["arms"]) == {"teacher", "student alone", "student + kd"}
    assert numbers["arms"]["student + kd"]["top1"]["n"] == 2
    assert numbers["contrasts"]["student + kd"]["seeds"] == [0, 1]
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"

    # What was exported is the student of this run, and answers for real pictures.
    loaded = load_run(folder)
    exported = load_file(folder / "export" / "student.safetensors")
    assert all(torch.equal(v, exported[k]) for k, v in loaded.net.state_dict().items())
    digits = load_digits()
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    answers = {}
    for backend in ("onnx", "torch_export"):
        arguments = [f"predict.backend={backend}", f"predict.output={backend}.jsonl"]
        outcome = cli("job=predict", f"run={folder}", "inputs=[pictures]", *arguments)
        assert outcome.code == 0, outcome.text
        answers[backend] = [json.loads(line) for line in Path(f"{backend}.jsonl").read_text().splitlines()]
    assert [a["classes"][0]["class"] for a in answers["onnx"]] == [
        a["classes"][0]["class"] for a in answers["torch_export"]
    ]
    assert len(answers["onnx"]) == 3

    # The other jobs on the same run.
    outcome = cli("job=evaluate", f"run={folder}")
    assert outcome.code == 0, outcome.text
    measured = json.loads((outcome.folder / "metrics.json").read_text())["top1"]
    status = json.loads((folder / "status.json").read_text())
    record = json.loads((folder / status["student"] / "arm.json").read_text())
    assert measured == pytest.approx(record["test"]["best"]["top1"])
    outcome = cli("job=compare", f"runs={folder}", "compare.latency=false")
    assert outcome.code == 0, outcome.text
    assert "resnet8 + kd" in outcome.text
    (folder / "export" / "student.pt2").unlink()
    outcome = cli("job=export", f"run={folder}", "export.formats=[torch_export]")
    assert outcome.code == 0, outcome.text
    assert (folder / "export" / "student.pt2").is_file()


def test_a_finished_teacher_is_found_again_and_a_changed_one_is_not(run, cli):
    again = cli(*DIGITS, "seeds=[5]")
    assert "teacher resnet8: finished earlier" in again.text
    other = cli(*DIGITS, "seeds=[5]", "optimizer.lr=0.01")
    assert "teacher resnet8: training" in other.text


def test_both_arms_start_from_the_same_weights(cli):
    outcome = cli(*DIGITS, "seed=3", "seeds=null", "optimizer.lr=0", "scheduler=constant")
    assert outcome.code == 0, outcome.text
    alone, distilled = (load_file(outcome.folder / arm / "seed_3" / "student.safetensors") for arm in ("alone", "kd"))
    weights = [name for name in alone if "running" not in name and "num_batches" not in name]
    assert weights
    assert all(torch.equal(alone[name], distilled[name]) for name in weights)


def test_teacher_from_a_run_folder_and_as_it_is_built(cli):
    teacher = cli(*TINY, "job=train", "method=ce", "hydra.run.dir=outputs/teacher/one")
    assert teacher.code == 0, teacher.text
    outcome = cli(*TINY, "job=train", "teacher.checkpoint=outputs/teacher/one", "name=student")
    assert outcome.code == 0, outcome.text
    assert "teacher resnet8: outputs/teacher/one" in outcome.text
    outcome = cli(*TINY, "teacher.fit=null", "name=built", "export.formats=[]")
    assert outcome.code == 0, outcome.text
    assert "used as it is built" in outcome.text
    assert "teacher" in json.loads((outcome.folder / "metrics.json").read_text())["arms"]


def test_sweep(cli):
    outcome = cli("-m", *TINY, "job=train", "method=ce", "model@student=resnet8,resnet14", "seed=0,1")
    assert outcome.code == 0, outcome.text
    assert len(list(Path().rglob("student.safetensors"))) == 4


def test_offline_wandb_never_asks(cli, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    outcome = cli(*TINY, "logger=wandb", "teacher.fit=null", "export.formats=[]")
    assert outcome.code == 0, outcome.text
    # Student alone, distilled and the comparison; the teacher was used as it is built.
    assert len(list(outcome.folder.rglob("offline-run-*/*.wandb"))) == 3


@pytest.mark.parametrize("job", ["doctor", "methods"])
def test_jobs_that_only_tell(cli, job):
    outcome = cli(f"job={job}")
    assert outcome.code == 0, outcome.text
    assert "torch" in outcome.text if job == "doctor" else "Hinton" in outcome.text


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.precision=bf16-mixed", "trainer.channels_last=true"],
        ["trainer.gradient_clip_val=1.0", "trainer.accumulate_grad_batches=2", "trainer.ema=0.9"],
        ["trainer.deterministic=true", "compile=true"],
        ["select=last", "data.val_fraction=0", "callbacks.checkpoint.monitor=null"],
    ],
)
def test_trainer_options(cli, options):
    outcome = cli(*TINY, "job=train", "teacher.fit=null", *options)
    assert outcome.code == 0, outcome.text
