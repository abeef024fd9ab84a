"""Images of Hugging Face data sets, from files."""

import logging

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as pil

from kd_lightning.data.images.sources.hf_images import HFImages
from tests.data.images.hostile import EPS, huge_when_unpacked


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        pil.fromarray(torch.randint(0, 256, (9, 8, 3), dtype=torch.uint8, generator=generator).numpy())
        for _ in range(count)
    ]


def made(count=6, seed=0, labels=None, label=None):
    features = Features({"image": Image(), "label": label or ClassLabel(names=["ant", "bee"])})
    labels = [i % 2 for i in range(count)] if labels is None else labels
    return Dataset.from_dict({"image": pictures(count, seed), "label": labels}, features=features)


def pixels(count, seed):
    """What the pictures of 9 rows become at size 8: cut, not resized."""
    import numpy as np

    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1)[:, :8] for p in pictures(count, seed)])


@pytest.fixture
def saved(tmp_path):
    parts = {"train": made(6, 0), "validation": made(4, 1), "test": made(2, 2)}
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("in_memory_gb", [1, 0])
def test_splits_names_and_pixels(saved, in_memory_gb):
    arrays = HFImages(str(saved), image_size=8, in_memory_gb=in_memory_gb).load()
    assert isinstance(arrays.inputs, torch.Tensor) == bool(in_memory_gb)
    assert arrays.class_names == ("ant", "bee")
    assert arrays.targets.tolist() == [0, 1] * 6
    assert arrays.validation.tolist() == [6, 7, 8, 9]
    assert arrays.test.tolist() == [10, 11]
    order = torch.tensor([11, 0, 7])
    read = arrays.inputs[order] if in_memory_gb else arrays.inputs.read(order)
    assert torch.equal(read, torch.cat([pixels(6, 0), pixels(4, 1), pixels(2, 2)])[order])


@pytest.mark.parametrize("folder", [True, False])
def test_parquet(tmp_path, folder):
    (tmp_path / "parquet").mkdir()
    made().to_parquet(tmp_path / "parquet" / "train.parquet")
    root = tmp_path / "parquet" if folder else tmp_path / "parquet" / "train.parquet"
    arrays = HFImages(str(root), image_size=8).load()
    assert torch.equal(arrays.inputs, pixels(6, 0))
    assert arrays.test is None


def test_classes_by_name_and_a_single_split_of_any_name(tmp_path):
    DatasetDict({"all": made(labels=["c", "a", "a", "c", "b", "a"], label=Value("string"))}).save_to_disk(tmp_path)
    arrays = HFImages(str(tmp_path), image_size=8).load()
    assert arrays.class_names == ("a", "b", "c")
    assert arrays.targets.tolist() == [2, 0, 0, 2, 1, 0]


def test_what_is_left_out_is_said(tmp_path, caplog):
    parts = {"train": made(), "test": made(2, 1, [-1, -1]), "extra": made(2, 2)}
    DatasetDict(parts).save_to_disk(tmp_path)
    with caplog.at_level(logging.INFO):
        arrays = HFImages(str(tmp_path), image_size=8).load()
    assert len(arrays.targets) == 6
    assert arrays.test is None
    assert "test has no classes" in caplog.text
    assert "split extra is left out" in caplog.text


def test_images_without_a_class_stay_unlabelled(tmp_path):
    named = ClassLabel(names=["a", "b"])
    made(labels=[0, 1, -1, 0, 1, None], label=named).save_to_disk(tmp_path / "named")
    assert HFImages(str(tmp_path / "named"), image_size=8).load().targets.tolist() == [0, 1, -100, 0, 1, -100]
    made(labels=[0, 1, 7, 0, 1, None], label=Value("int64")).save_to_disk(tmp_path / "numbers")
    assert HFImages(str(tmp_path / "numbers"), image_size=8, missing=7).load().targets.max() == 1
    made(labels=["a", "b", "?", "a", "", None], label=Value("string")).save_to_disk(tmp_path / "texts")
    arrays = HFImages(str(tmp_path / "texts"), image_size=8, missing="?").load()
    assert (arrays.class_names, arrays.targets.tolist()) == (("a", "b"), [0, 1, -100, 0, -100, -100])


def test_lazy_fingerprint_is_that_of_the_files(saved, tmp_path):
    def fingerprint(root, size=8):
        return HFImages(str(root), image_size=size, in_memory_gb=0).load().fingerprint

    assert fingerprint(saved) == fingerprint(saved)
    assert fingerprint(saved) != fingerprint(saved, 7)
    made(6, 5).save_to_disk(tmp_path / "other")
    assert fingerprint(saved) != fingerprint(tmp_path / "other")


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"image": "imag"}, "Did you mean data.source.image=image"), ({"label": "labels"}, "data.source.label=label")],
)
def test_columns_by_near_names(saved, columns, message):
    with pytest.raises(ValueError, match=message):
        HFImages(str(saved), **columns).load()


def test_broken_images_are_named(tmp_path):
    features = Features({"image": Value("binary"), "label": Value("int64")})
    broken = [b"no picture", EPS.encode(), huge_when_unpacked(20_000)]
    Dataset.from_dict({"image": broken, "label": [0, 1, 1]}, features=features).cast_column(
        "image", Image(decode=False)
    ).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=r"3 broken images(.|\n)*row 1 .*cannot identify.*\n.*decompression bomb"):
        HFImages(str(tmp_path), image_size=8).load()


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        HFImages(str(tmp_path / "none")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        HFImages(str(tmp_path / "empty")).load()
