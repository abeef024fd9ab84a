"""``job=prepare`` on the command line."""

import os
import re
import threading

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as pil

from kd_lightning.data.images.sources.image_folder import ImageFiles, ImageFolder
from kd_lightning.data.images.sources.prepared import Prepared
from tests.conftest import QUICK

SIZES = {"train": 24, "val": 6, "test": 6}
OUT = "outputs/prepared/image_folder"


def picture(seed, size=(20, 24)):
    generator = torch.Generator().manual_seed(seed)
    return pil.fromarray(torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator).numpy())


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for split, count in SIZES.items():
        for number in range(count):
            path = root / split / ("ant", "bee", "cow")[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number + 100 * len(split)).save(path)
    return root


def command(pictures, *more):
    return [
        "job=prepare",
        "data=image_folder",
        f"data.root={pictures}",
        "data.image_size=16",
        "prepare.format=png",
        "prepare.chunk_mb=0.005",
        "prepare.num_workers=2",
        *more,
    ]


def files(root):
    """Name -> when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in root.glob("chunk-*.bin")}


def test_training_on_prepared_images_is_that_on_the_folder(cli, pictures, tmp_path):
    said = cli(*command(pictures))
    assert said.code == 0, said.text
    assert re.search(rf"writing 36 images \(3×16×16, png\) to {OUT}: [\d.]+ kB, about", said.text)
    assert f"data=prepared data.root={OUT}" in said.text
    assert "litdata" not in said.text.lower()
    held = ImageFolder(str(pictures), 16).load()
    found = Prepared(OUT).load()
    assert torch.equal(found.inputs.read(torch.arange(36)), held.inputs)
    assert torch.equal(found.targets, held.targets)
    assert torch.equal(found.validation, held.validation)
    assert torch.equal(found.test, held.test)
    assert len(files(tmp_path / OUT)) > 3
    # ... and the whole training, augmentation and order included
    train = ["job=train", "method=ce", *QUICK, "data.batch_size=8", "data.num_workers=1", "trainer.max_epochs=1"]
    scores = []
    for data in (["data=image_folder", f"data.root={pictures}", "data.image_size=16"],
                 ["data=prepared", f"data.root={OUT}"]):  # fmt: skip
        done = cli(*train, *data)
        assert done.code == 0, done.text
        scores.append(re.search(r"test \(last\): .*", done.text)[0])
        assert "StreamingDataset" not in done.text
    assert scores[0] == scores[1]


def test_a_stopped_conversion_goes_on_where_it_was(cli, pictures, tmp_path, monkeypatch):
    read, lock, calls = ImageFiles.read, threading.Lock(), []

    def breaks(self, positions):
        with lock:
            calls.append(len(positions))
            if len(calls) > 4:  # the estimate, and three blocks of images
                raise KeyboardInterrupt
        return read(self, positions)

    monkeypatch.setattr(ImageFiles, "read", breaks)
    stopped = cli(*command(pictures, "prepare.num_workers=1"))
    assert stopped.code == 130
    first = files(tmp_path / OUT)
    assert first
    with pytest.raises(FileNotFoundError, match="not finished"):
        Prepared(OUT).load()
    monkeypatch.setattr(ImageFiles, "read", read)
    done = cli(*command(pictures))
    assert done.code == 0, done.text
    found = re.search(r"going on; (\d+) images are there, (\d+) are missing", done.text)
    assert int(found[1]) > 0
    assert int(found[1]) + int(found[2]) == 36
    second = files(tmp_path / OUT)
    assert {name: second[name] for name in first} == first
    expected = ImageFolder(str(pictures), 16).load().inputs
    assert torch.equal(Prepared(OUT).load().inputs.read(torch.arange(36)), expected)


def test_again_checks_and_mends(cli, pictures, tmp_path):
    assert cli(*command(pictures)).code == 0
    before = files(tmp_path / OUT)
    again = cli(*command(pictures))
    assert "complete and checked" in again.text
    assert files(tmp_path / OUT) == before
    names = sorted(before)
    damaged = tmp_path / OUT / names[1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    (tmp_path / OUT / names[2]).unlink()
    (tmp_path / OUT / "index.json").write_text("")
    mended = cli(*command(pictures))
    assert "going on" in mended.text
    after = files(tmp_path / OUT)
    assert {name for name in after if after[name] != before[name]} == set(names[1:3])
    expected = ImageFolder(str(pictures), 16).load().inputs
    assert torch.equal(Prepared(OUT).load().inputs.read(torch.arange(36)), expected)


def test_what_is_too_large_is_refused_before_anything_is_written(cli, pictures):
    outcome = cli(*command(pictures, "prepare.max_gb=0.00001"))
    assert outcome.code == 1
    assert re.search(r"36 images .* would take [\d.]+ kB, more than prepare.max_gb=1e-05", outcome.text)
    assert not os.path.exists(OUT)


@pytest.mark.parametrize("change", ["settings", "files", "foreign"])
def test_another_conversion_in_the_folder_is_left_alone(cli, pictures, tmp_path, change):
    if change == "foreign":
        (tmp_path / OUT).mkdir(parents=True)
        (tmp_path / OUT / "thesis.txt").write_text("mine")
    else:
        assert cli(*command(pictures)).code == 0
    if change == "files":
        picture(7).save(pictures / "train" / "ant" / "0.png")
    outcome = cli(*command(pictures, *(["prepare.format=raw"] if change == "settings" else [])))
    assert outcome.code == 1
    assert "holds something else" in outcome.text or "holds other data" in outcome.text
    assert "prepare.folder" in outcome.text
    assert change != "foreign" or os.listdir(tmp_path / OUT) == ["thesis.txt"]


def test_from_a_hugging_face_data_set(cli, tmp_path):
    features = Features({"picture": Image(), "label": ClassLabel(names=["ant", "bee"])})
    rows = {"picture": [picture(i) for i in range(10)], "label": [0, 1] * 5}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    arguments = ["job=prepare", "data=hf_images", "data.root=set", "data.image_size=16", "prepare.folder=out"]
    wrong = cli(*arguments, "data.source.image=pictures")
    assert "Did you mean data.source.image=picture" in wrong.text
    done = cli(*arguments, "data.source.image=picture", "prepare.quality=100")
    assert done.code == 0, done.text
    found = Prepared("out").load()
    assert found.class_names == ("ant", "bee")
    assert found.targets.tolist() == [0, 1] * 5
    assert found.inputs.shape == (10, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare.format=jpgg"], "Did you mean jpeg"),
        (["prepare.fromat=png"], "format"),
        (["data=tensors", "data.root=.", "data.source.path=floats.npz"], "stores images of uint8"),
        (["data=prepared", "data.root=nowhere"], "nowhere is prepared already; set data to what is to be converted"),
        (["prepare.chunk_mb=0"], "chunk_mb"),
        (["data=image_folder", "data.root=nowhere"], "data.root"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_say_what_to_do(cli, arguments, message):
    np.savez("floats.npz", x=np.zeros((4, 5), np.float32), y=np.arange(4))
    outcome = cli("job=prepare", *arguments)
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text
