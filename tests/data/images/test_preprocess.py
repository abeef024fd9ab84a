"""From a picture to an input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.preprocess import apply_preprocessing, decode
from kd_lightning.data.images.sources.digits import Digits
from kd_lightning.data.images.sources.image_folder import ImageFolder
from kd_lightning.data.images.sources.tensors import Tensors


def picture(width=20, height=10, mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def settings(**kwargs):
    return {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 8, "channels": 3, "decode_size": None, **kwargs}


def test_values_are_normalised():
    out = apply_preprocessing(Image.new("RGB", (8, 8), (255, 0, 51)), settings(mean=[0.5, 0, 0.1], std=[0.5, 1, 0.1]))
    assert out.shape == (1, 3, 8, 8)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, 0.0, 1.0]))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_what_the_network_takes(mode):
    assert apply_preprocessing(picture(mode=mode), settings()).shape == (1, 3, 8, 8)
    grey = settings(channels=1, mean=[0.5], std=[0.25])
    assert apply_preprocessing(picture(mode=mode), grey).shape == (1, 1, 8, 8)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(path)
    assert decode(path, 1, 4).unique().tolist() == [128]


@pytest.mark.parametrize(("white", "expected"), [(1.0, [0, 64, 128, 255]), (255.0, [0, 64, 128, 255])])
def test_floats_are_scaled_not_clipped(tmp_path, white, expected):
    values = np.array([[0, 0.25], [0.5, 1]], np.float32) * white
    Image.fromarray(values).save(tmp_path / "x.tiff")
    assert decode(tmp_path / "x.tiff", 1, 2).flatten().tolist() == expected
    assert decode(tmp_path / "x.tiff", 3, 2)[2].flatten().tolist() == expected


@pytest.mark.parametrize("value", [-0.5, 300.0, float("nan")])
def test_floats_that_are_no_grey_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match=r"x\.tiff cannot be read as a picture: its values go from"):
        apply_preprocessing(tmp_path / "x.tiff", settings(image_size=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_under_alpha_are_not_seen(tmp_path, mode, channels):
    seen = []
    for hidden in (0, 255):
        image = Image.new("RGBA", (4, 4), (hidden, hidden, hidden, 0))
        image.paste((90, 90, 90, 255), (0, 0, 2, 4))
        image = image.convert(mode)
        if mode == "P":
            image = Image.new("P", (4, 4), 0)
            image.putpalette([hidden] * 3 + [90] * 3)
            image.paste(1, (0, 0, 2, 4))
            image.info["transparency"] = 0
        image.save(tmp_path / "x.png")
        seen.append(decode(tmp_path / "x.png", channels, 4))
    assert torch.equal(*seen)
    assert seen[0][:, :, :2].unique().tolist() == [90]
    assert seen[0][:, :, 2:].unique().tolist() == [255]


def test_same_size_is_untouched():
    image = picture(8, 8)
    assert torch.equal(decode(image, 3, 8), torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))


def test_resize_keeps_the_proportions_and_cuts_the_centre():
    image = Image.new("RGB", (40, 10), (0, 0, 0))
    image.paste((255, 255, 255), (15, 0, 25, 10))
    assert decode(image, 3, 10).unique().tolist() == [255]
    assert decode(image, 3, (5, 20))[:, :, :3].max() == 0


def test_decode_size_keeps_a_border_out():
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (6, 6, 58, 58))
    assert decode(image, 1, 24, 32).min() == 255
    assert decode(image, 1, 24).min() == 0


def test_photographs_are_turned_upright(tmp_path):
    image = Image.new("L", (4, 2), 0)
    image.paste(255, (0, 0, 2, 2))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "x.png", exif=exif)
    assert decode(tmp_path / "x.png", 1, (2, 4))[0, 0].tolist() == [0, 0, 255, 255]


def test_prediction_sees_what_training_saw(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for k in range(5):
            picture(20 + k, 16).save(tmp_path / name / f"{k}.png")
    module = KDDataModule(ImageFolder(str(tmp_path), 8, 12), eval_batch_size=1)
    batch = module.ready(next(iter(module.test_dataloader())))
    preprocessing = json.loads(json.dumps(module.preprocessing()))
    assert preprocessing["decode_size"] == 12
    assert preprocessing["class_names"] == ["ant", "bee"]
    path = sorted(tmp_path.rglob("*.png"))[module.split.test[0]]
    torch.testing.assert_close(apply_preprocessing(str(path), preprocessing), batch["image"])


def test_digits_written_as_files_are_seen_alike(tmp_path):
    module = KDDataModule(Digits(), eval_batch_size=4)
    batch = next(iter(module.test_dataloader()))
    Image.fromarray(batch["image"][2, 0].numpy()).save(tmp_path / "digit.png")
    out = apply_preprocessing(tmp_path / "digit.png", module.preprocessing())
    torch.testing.assert_close(out[0], module.ready(batch)["image"][2])


def test_missing_and_broken_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        apply_preprocessing(tmp_path / "none.png", settings())
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read"):
        apply_preprocessing(tmp_path / "bad.png", settings())


def test_feature_vectors_take_no_pictures(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((20, 3)), y=np.arange(20) % 2)
    module = KDDataModule(Tensors("a.npz", root=str(tmp_path)))
    with pytest.raises(ValueError, match="feature vectors"):
        apply_preprocessing(picture(), module.preprocessing())


def test_odd_channels():
    with pytest.raises(ValueError, match="not 2"):
        decode(picture(), 2, 8)
