"""The teacher cache: whatever changes what the teacher gives is a miss; damage is refused or mended."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cache.commands import TRAIN, files

CHANGES = {
    "weights": ["teacher.seed=1"],
    "net": ["model@teacher=resnet14"],
    "augmentation": ["data.augment.0.padding=1"],
    "augmentation seed": ["data.seed=1"],
    "statistics": ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"],
    "split": ["data.split_seed=1"],
    "data": ["data.source.seed=1"],
    "precision": ["teacher.precision=bf16"],
    "trainer's precision": ["trainer.precision=bf16-mixed"],
    "type": ["teacher.cache_dtype=bf16"],
    "folding": ["teacher.fold=false"],
    "signal": ["method=crd"],
    "views": ["teacher.views=3"],
}


def test_any_change_of_what_the_teacher_gives_is_a_miss(cli):
    # Given, since statistics that are measured would change with the split by themselves.
    given = [*TRAIN, "data.mean=[0.4,0.4,0.4]", "data.std=[0.2,0.2,0.2]"]
    assert cli(*given, "job=cache").code == 0
    assert cli(*given, "job=cache", "teacher.cache_dtype=fp16").code == 0
    assert len(files()) == 2
    for what, change in CHANGES.items():
        outcome = cli(*given, "teacher.cache=read", *change)
        assert outcome.code == 1, what
        assert "files are missing or damaged" in outcome.text, what
        assert "job=cache" in outcome.text
    assert len(files()) == 2


def test_code_that_changed_since_is_noticed_though_the_key_is_the_same(cli, monkeypatch):
    assert cli(*TRAIN, "job=cache").code == 0
    from kd_lightning.core.calls import TensorCall

    original = TensorCall.__call__
    monkeypatch.setattr(TensorCall, "__call__", lambda *a: {"logits": original(*a)["logits"] * 3})
    refused = cli(*TRAIN, "teacher.cache=read")
    assert refused.code == 1
    assert "not what the teacher gives now" in refused.text
    renewed = cli(*TRAIN, "job=cache")
    assert "written anew" in renewed.text
    assert cli(*TRAIN, "teacher.cache=read").code == 0


def test_a_damaged_file_is_named_when_reading_and_mended_otherwise(cli, train):
    right = train("teacher.cache=write")
    path = files()[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))
    refused = cli(*TRAIN, "teacher.cache=read")
    assert refused.code == 1
    assert f"{path} is damaged: its checksum is wrong" in refused.text
    mended = train()
    assert "it is written anew" in mended.text
    assert "112 are written" in mended.text
    assert mended.losses == right.losses


FITTED = [item for item in TRAIN if item not in ("teacher.fit=null", "teacher.views=2")] + ["trainer.max_epochs=1"]


def test_the_teacher_depends_on_neither_seed_nor_views_of_the_student(cli):
    weights = []
    for number, options in enumerate(([], ["seed=5"], ["teacher.views=1"])):
        outcome = cli(*FITTED, f"teacher.store=outputs/teachers{number}", *options)
        assert outcome.code == 0, outcome.text
        [path] = Path(f"outputs/teachers{number}").glob("*/student.safetensors")
        weights.append((path.parent.name, load_file(path)))
    for name, other in weights[1:]:
        assert name == weights[0][0]
        assert all(torch.equal(value, other[key]) for key, value in weights[0][1].items())
