"""Arrays from files, and the sources that need none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.digits import Digits
from kd_lightning.data.images.sources.synthetic import Synthetic
from kd_lightning.data.images.sources.tensors import Tensors


def npz(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return Tensors("a.npz", root=str(path))


X, Y = np.arange(12, dtype=np.float64).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


def test_features(tmp_path):
    arrays = npz(tmp_path, x=X, y=Y.astype(np.int32)).load()
    assert arrays.inputs.dtype == torch.float32
    assert arrays.inputs.tolist() == X.tolist()
    assert arrays.targets.dtype == torch.int64
    assert arrays.targets.tolist() == Y.tolist()
    assert arrays.test is None


def test_safetensors_equal_npz(tmp_path):
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "a.safetensors")
    arrays = Tensors("a.safetensors", root=str(tmp_path)).load()
    assert arrays.fingerprint == npz(tmp_path, x=X, y=Y).load().fingerprint


def test_official_splits_and_own_names(tmp_path):
    np.savez(tmp_path / "a.npz", train_f=X, train_c=Y, test_f=X[:2] + 50, test_c=Y[:2], val_f=X[:1] + 90, val_c=Y[:1])
    arrays = Tensors("a.npz", root=str(tmp_path), x="f", y="c").load()
    assert len(arrays.targets) == 9
    assert arrays.inputs[arrays.test].tolist() == (X[:2] + 50).tolist()
    assert arrays.inputs[arrays.validation].tolist() == (X[:1] + 90).tolist()
    assert arrays.free.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 5, 4), (6, 1, 5, 4)),
        ((6, 3, 5, 4), (6, 3, 5, 4)),
        ((6, 5, 4, 3), (6, 3, 5, 4)),
        ((6, 3, 5, 3), (6, 3, 5, 3)),
        ((6, 8, 8, 4), (6, 4, 8, 8)),
        ((6, 8, 8, 2), (6, 2, 8, 8)),
        ((6, 4, 8, 8), (6, 4, 8, 8)),
        ((6, 4, 5, 4), (6, 4, 5, 4)),
        ((6, 64, 4, 4), (6, 64, 4, 4)),
        ((6, 64, 3, 3), (6, 64, 3, 3)),
        ((6, 64, 1, 1), (6, 64, 1, 1)),
    ],
)
def test_images_become_channels_first(tmp_path, shape, expected):
    arrays = npz(tmp_path, x=np.zeros(shape, np.uint8), y=Y).load()
    assert arrays.inputs.shape == expected
    assert arrays.inputs.dtype == torch.uint8
    assert arrays.inputs.is_contiguous()


def test_a_shape_that_may_be_both_needs_a_word(tmp_path):
    x = np.arange(6 * 8 * 7 * 4, dtype=np.uint8).reshape(6, 8, 7, 4)
    with pytest.raises(ValueError, match=r"4 channels of 8 x 7 pixels, or 8 of 7 x 4\? .*layout=NHWC or NCHW"):
        npz(tmp_path, x=x, y=Y).load()
    for layout, expected in (("NHWC", x.transpose(0, 3, 1, 2)), ("NCHW", x)):
        arrays = Tensors("a.npz", root=str(tmp_path), layout=layout).load()
        assert torch.equal(arrays.inputs, torch.from_numpy(np.ascontiguousarray(expected)))
    with pytest.raises(ValueError, match="must be NCHW, NHWC or null, got HWC"):
        Tensors("a.npz", layout="HWC")


def test_numbers_that_are_no_classes_are_refused(tmp_path):
    y = np.array([0, 1, 10_000_002] * 20)
    source = npz(tmp_path, x=np.zeros((60, 2), np.float32), y=y)
    with pytest.raises(ValueError, match=r"10000003 classes, but only 3 different ones occur.*data\.num_classes"):
        KDDataModule(source).prepare()
    npz(tmp_path, x=np.zeros((60, 2), np.float32), y=np.where(y > 1, 150, y))
    assert KDDataModule(source, num_classes=151).facts["num_classes"] == 151


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": X, "y": Y}, r"no array 'x'; it holds inputs, y\."),
        ({"X": X, "y": Y}, "no array 'x'; it holds X, y"),
        ({"x": X, "labels": Y}, r"no array 'y'; it holds labels, x\. .*data\.source\.y"),
        ({"train_x": X, "train_yy": Y}, "no array 'train_y'.*Did you mean 'train_yy'"),
        ({"train_x": X, "train_y": Y, "test_x": X}, "no array 'test_y'"),
        ({"x": X, "y": Y[:4]}, "'x' has 6 samples, its targets are 4"),
        ({"x": X, "y": Y.astype(np.float32)}, "expected integer classes"),
        ({"x": X, "y": np.eye(6, dtype=np.int64)}, "argmax"),
        ({"x": X[:, 0], "y": Y}, r"expected \(N, D\)"),
        ({"x": np.where(X > 8, np.nan, X), "y": Y}, "'x' has 3 values that are not finite"),
        ({"x": X.astype(complex), "y": Y}, "complex"),
        ({"x": X, "y": Y - 1}, "2 targets are negative"),
        ({"x": X[:0], "y": Y[:0]}, "no samples"),
        ({"train_x": X, "train_y": Y, "test_x": X[:, :1], "test_y": Y}, r"'test_x' holds .*\(1,\) a sample"),
        ({"x": np.array([["a"]] * 6), "y": Y}, "not a plain"),
    ],
)
def test_bad_content_is_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        npz(tmp_path, **arrays).load()


def test_pickled_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not a plain"):
        npz(tmp_path, x=np.array([{"a": 1}, None], dtype=object), y=Y[:2]).load()


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_truncated_file(tmp_path, name):
    npz(tmp_path, x=X, y=Y)
    save_file({"x": torch.zeros(4, 2), "y": torch.zeros(4)}, tmp_path / "a.safetensors")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-60])
    with pytest.raises(ValueError, match=f"{name} is truncated"):
        Tensors(name, root=str(tmp_path)).load()


def test_absent_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.source\.path"):
        Tensors("none.npz", root=str(tmp_path)).load()
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected \.npz or \.safetensors"):
        Tensors("a.csv", root=str(tmp_path)).load()


def test_digits_are_the_real_ones():
    arrays = Digits().load()
    assert arrays.inputs.shape == (1797, 1, 8, 8)
    assert arrays.inputs.dtype == torch.uint8
    assert (int(arrays.inputs.min()), int(arrays.inputs.max())) == (0, 255)
    assert arrays.inputs.unique().numel() == 17
    assert arrays.targets[:10].tolist() == list(range(10))
    assert arrays.class_names == tuple("0123456789")


def test_synthetic_is_seeded_balanced_and_learnable():
    kwargs = {"samples": 300, "num_classes": 5, "channels": 2, "image_size": (9, 6)}
    arrays = Synthetic(**kwargs, seed=1).load()
    assert arrays.fingerprint == Synthetic(**kwargs, seed=1).load().fingerprint
    assert arrays.fingerprint != Synthetic(**kwargs, seed=2).load().fingerprint
    assert arrays.inputs.shape == (300, 2, 9, 6)
    assert torch.bincount(arrays.targets).tolist() == [60] * 5
    x = arrays.inputs.flatten(1).float()
    centres = torch.stack([x[:150][arrays.targets[:150] == k].mean(0) for k in range(5)])
    accuracy = (torch.cdist(x[150:], centres).argmin(1) == arrays.targets[150:]).float().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("kwargs", [{"samples": 3}, {"num_classes": 0}, {"channels": 0}])
def test_impossible_synthetic_sets(kwargs):
    with pytest.raises(ValueError, match="synthetic"):
        Synthetic(**kwargs)
