"""Folders of pictures as people make them."""

import logging

import pytest
from PIL import Image

from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.image_folder import ImageFolder

CLASSES = ("ant", "bee")


def write(path, kind="PNG", colour=(255, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, kind)


def make(root, *splits, per_class=2):
    for split in splits:
        for name in CLASSES:
            for k in range(per_class):
                write(root / split / name / f"{k}.png", colour=(90 * CLASSES.index(name), 10 * k, 0))
    return root


@pytest.fixture
def told(caplog):
    """What is said."""
    caplog.set_level(logging.INFO, logger="kd_lightning")
    return caplog


@pytest.mark.parametrize(
    "splits",
    [
        ("Training", "Testing"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("train", "Validation", "testing"),
        ("train", "dev"),
    ],
)
def test_splits_are_known_by_the_names_that_people_give(tmp_path, splits):
    arrays = ImageFolder(str(make(tmp_path, *splits)), 8).load()
    assert arrays.class_names == CLASSES
    assert len(arrays.free) == 4
    held = {"test": arrays.test, "validation": arrays.validation}
    found = {name for name, positions in held.items() if positions is not None and len(positions) == 4}
    expected = {"test" for name in splits if name.lower().startswith("test")}
    assert found == expected | {"validation" for name in splits if name.lower()[:3] in ("val", "dev")}


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("test", "valid"):
        write(tmp_path / name / "0.png")
    assert ImageFolder(str(tmp_path), 8).load().class_names == ("test", "valid")


def test_two_folders_for_one_split_are_refused(tmp_path):
    make(tmp_path, "train", "val", "valid")
    with pytest.raises(ValueError, match="has val and valid: which is the validation split"):
        ImageFolder(str(tmp_path), 8).load()


@pytest.mark.parametrize("splits", [("train", "test"), ("Training",), ("",)])
def test_one_folder_too_high_names_the_right_one(tmp_path, splits):
    make(tmp_path / "pictures", *splits)
    with pytest.raises(ValueError, match=r"data\.root=.*/pictures$"):
        ImageFolder(str(tmp_path), 8).load()


def test_flat_splits_are_no_classes(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "0.png")
    with pytest.raises(ValueError, match=r"train has no folders, of which each is a class"):
        ImageFolder(str(tmp_path), 8).load()


def test_one_class_alone_is_refused_in_words(tmp_path):
    for k in range(8):
        write(tmp_path / "ant" / f"{k}.png")
    with pytest.raises(ValueError, match=r"has one class only \('ant'\)"):
        KDDataModule(ImageFolder(str(tmp_path), 8)).prepare()


def test_a_flat_test_folder_and_strange_folders_are_said_to_be_left_out(tmp_path, told):
    make(tmp_path, "train")
    write(tmp_path / "test" / "0.png")
    write(tmp_path / "extra" / "ant" / "0.png")
    arrays = ImageFolder(str(tmp_path), 8).load()
    assert arrays.test is None
    assert len(arrays.targets) == 4
    assert "test: left out: 1 pictures that are in no class folder" in told.text
    assert "left out: the folders extra, which are no splits" in told.text


def test_pictures_are_known_by_their_content_where_the_ending_says_nothing(tmp_path, told):
    for name in CLASSES:
        for k, (ending, kind) in enumerate([(".jfif", "JPEG"), ("", "PNG"), (".JPG_large", "JPEG"), (".jpe", "JPEG")]):
            write(tmp_path / name / f"{k}{ending}", kind)
    (tmp_path / "ant" / "notes").write_text("about")
    (tmp_path / "bee" / "list.csv").write_text("a,b")
    (tmp_path / "bee" / ".DS_Store").write_bytes(b"\0")
    arrays = ImageFolder(str(tmp_path), 8).load()
    assert arrays.targets.tolist() == [0] * 4 + [1] * 4
    assert "left out: 2 files that are no pictures (notes, list.csv)" in told.text
