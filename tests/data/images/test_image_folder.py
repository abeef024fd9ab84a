"""Photographs in folders."""

import logging

import pytest
import torch
from PIL import Image

from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.image_folder import ImageFolder
from tests.data.images.hostile import EPS, huge_when_unpacked


def write(path, colour=(255, 0, 0), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def make(root, splits=("",), per_class=3):
    for split in splits:
        for i, name in enumerate(("ant", "bee")):
            for k in range(per_class):
                write(root / split / name / f"{k}.png", (100 * i, 10 * k, 0))
    return root


def break_file(path):
    """The first bytes stay: only decoding finds it."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def noisy(path, size=(64, 64)):
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


def test_one_folder_per_class(tmp_path):
    arrays = ImageFolder(str(make(tmp_path)), 8).load()
    assert arrays.class_names == ("ant", "bee")
    assert arrays.inputs.shape == (6, 3, 8, 8)
    assert arrays.inputs.dtype == torch.uint8
    assert arrays.inputs[4, :, 0, 0].tolist() == [100, 10, 0]
    assert arrays.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays.test is None


def test_official_splits(tmp_path):
    arrays = ImageFolder(str(make(tmp_path, ("train", "val", "test"))), 8).load()
    assert arrays.free.tolist() == list(range(6))
    assert arrays.validation.tolist() == list(range(6, 12))
    assert arrays.test.tolist() == list(range(12, 18))


def test_hidden_folders_and_other_files_are_left_out(tmp_path):
    make(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "ant" / "notes.txt").write_text("about")
    write(tmp_path / "bee" / "deeper" / "x.JPG")
    arrays = ImageFolder(str(tmp_path), 8).load()
    assert arrays.targets.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_lazy_reads_the_same_images(tmp_path):
    make(tmp_path, ("train", "test"))
    noisy(tmp_path / "train" / "ant" / "noise.png")
    held, lazy = (ImageFolder(str(tmp_path), 8, 9, in_memory_gb=gb).load() for gb in (1, 0))
    order = torch.tensor([5, 0, 3, 11])
    assert not isinstance(lazy.inputs, torch.Tensor)
    assert lazy.inputs.shape == held.inputs.shape
    assert torch.equal(lazy.inputs.read(order), held.inputs[order])
    assert torch.equal(lazy.test, held.test)


@pytest.mark.parametrize("in_memory_gb", [1, 0])
def test_lazy_and_held_batches_agree_in_workers(tmp_path, in_memory_gb):
    make(tmp_path, per_class=10)
    module = KDDataModule(ImageFolder(str(tmp_path), 8, in_memory_gb=in_memory_gb), num_workers=2, eval_batch_size=4)
    batches = [module.ready(batch) for batch in module.test_dataloader()]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3]
    expected = ImageFolder(str(tmp_path), 8).load().inputs[module.split.test]
    images = torch.cat([batch["image"] for batch in batches])
    torch.testing.assert_close(images, module.normalise(expected.float() / 255))


@pytest.mark.parametrize("in_memory_gb", [1, 0])
def test_fingerprint_changes_with_the_content(tmp_path, in_memory_gb):
    make(tmp_path)
    first = ImageFolder(str(tmp_path), 8, in_memory_gb=in_memory_gb).load().fingerprint
    assert ImageFolder(str(tmp_path), 8, in_memory_gb=in_memory_gb).load().fingerprint == first
    assert ImageFolder(str(tmp_path), 9, in_memory_gb=in_memory_gb).load().fingerprint != first
    noisy(tmp_path / "ant" / "0.png")
    assert ImageFolder(str(tmp_path), 8, in_memory_gb=in_memory_gb).load().fingerprint != first


def test_broken_images_are_named_and_counted_in_one_error(tmp_path):
    make(tmp_path, per_class=4)
    (tmp_path / "ant" / "1.png").write_bytes(b"")
    (tmp_path / "bee" / "2.png").write_text("this is text")
    noisy(tmp_path / "bee" / "3.png")
    break_file(tmp_path / "bee" / "3.png")
    with pytest.raises(ValueError, match="3 broken images") as caught:
        ImageFolder(str(tmp_path), 8).load()
    for name in ("ant/1.png", "bee/2.png", "bee/3.png", "on_broken=skip"):
        assert name in str(caught.value)


@pytest.mark.parametrize("in_memory_gb", [1, 0])
def test_skip_goes_on_without_the_broken_and_says_so(tmp_path, caplog, in_memory_gb):
    make(tmp_path, ("train", "test"))
    noisy(tmp_path / "train" / "ant" / "noise.png")
    break_file(tmp_path / "train" / "ant" / "noise.png")
    (tmp_path / "train" / "bee" / "0.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        arrays = ImageFolder(str(tmp_path), 8, on_broken="skip", in_memory_gb=in_memory_gb).load()
    assert "2 broken images" in caplog.text
    assert "noise.png" in caplog.text
    assert arrays.targets.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert arrays.test.tolist() == list(range(5, 11))
    assert len(arrays.inputs) == 11


def test_a_lazy_set_checks_first_bytes_at_once_and_names_the_rest_when_read(tmp_path):
    make(tmp_path)
    (tmp_path / "bee" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 broken images(.|\n)*bee/0\.png"):
        ImageFolder(str(tmp_path), 8, in_memory_gb=0).load()
    noisy(tmp_path / "bee" / "0.png")
    break_file(tmp_path / "bee" / "0.png")
    (tmp_path / "bee" / "1.png").unlink()
    arrays = ImageFolder(str(tmp_path), 8, in_memory_gb=0).load()
    with pytest.raises(ValueError, match=r"1 broken images(.|\n)*bee/0\.png"):
        arrays.inputs.read(torch.arange(5))


@pytest.mark.parametrize("in_memory_gb", [1, 0])
def test_hostile_pictures_are_named_and_start_nothing(tmp_path, monkeypatch, in_memory_gb):
    make(tmp_path)
    (tmp_path / "ant" / "eps.png").write_text(EPS)
    (tmp_path / "ant" / "bomb.png").write_bytes(huge_when_unpacked(20_000))
    (tmp_path / "bee" / "eps").write_text(EPS)  # without ending it is no picture
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    with pytest.raises(ValueError, match="2 broken images") as caught:
        ImageFolder(str(tmp_path), 8, in_memory_gb=in_memory_gb).load()
    assert "decompression bomb" in str(caught.value)
    assert "cannot identify" in str(caught.value)


def test_a_line_that_would_be_huge_when_it_is_resized(tmp_path):
    make(tmp_path)
    Image.new("L", (1, 30_000)).save(tmp_path / "ant" / "line.png")
    with pytest.raises(ValueError, match=r"line\.png .*1 x 30000 pixels would become 128 x 3840000"):
        ImageFolder(str(tmp_path), 128).load()


def test_many_broken_images_are_counted_in_full(tmp_path):
    make(tmp_path, per_class=30)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"60 broken images(.|\n)*and 40 more"):
        ImageFolder(str(tmp_path), 8).load()


def test_a_class_with_nothing_but_broken_images(tmp_path):
    make(tmp_path, per_class=1)
    (tmp_path / "bee" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no readable image left in bee"):
        ImageFolder(str(tmp_path), 8, on_broken="skip").load()


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_class_folder_is_named(tmp_path, split):
    make(tmp_path, ("train", "test"))
    (tmp_path / split / "ant" / "0.png").unlink()
    for path in (tmp_path / split / "bee").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=f"class folder .*{split}/bee holds no images"):
        ImageFolder(str(tmp_path), 8).load()


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        ImageFolder(str(tmp_path / "none"), 8).load()


@pytest.mark.parametrize("layout", ["nothing", "empty classes", "no classes"])
def test_no_images(tmp_path, layout):
    if layout == "empty classes":
        (tmp_path / "ant").mkdir()
        (tmp_path / "bee").mkdir()
    if layout == "no classes":
        write(tmp_path / "loose.png")
    with pytest.raises(FileNotFoundError, match="one folder per class"):
        ImageFolder(str(tmp_path), 8).load()


def test_class_that_is_not_trained(tmp_path):
    make(tmp_path, ("train", "test"))
    write(tmp_path / "test" / "wasp" / "0.png")
    with pytest.raises(ValueError, match="no class 'wasp'"):
        ImageFolder(str(tmp_path), 8).load()


def test_test_without_train(tmp_path):
    make(tmp_path, ("test", "val"))
    with pytest.raises(ValueError, match="no train"):
        ImageFolder(str(tmp_path), 8).load()


@pytest.mark.parametrize(
    "kwargs",
    [{"on_broken": "ignore"}, {"channels": 4}, {"decode_size": 7, "image_size": 8}],
    ids=lambda k: next(iter(k)),
)
def test_bad_arguments_are_named(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        ImageFolder("x", **kwargs)
