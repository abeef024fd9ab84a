"""Train, validation, test."""

import pytest
import torch
from safetensors.torch import save_file

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.split import NAMES, load_split, make_split
from kd_lightning.data.targets import IGNORE


def arrays(targets, **kwargs):
    targets = torch.as_tensor(targets)
    inputs = torch.arange(len(targets), dtype=torch.float32)[:, None]
    return Arrays(inputs, targets, fingerprint(inputs, targets), **kwargs)


def imbalanced():
    generator = torch.Generator().manual_seed(0)
    sizes = [500, 200, 90, 37, 10]
    targets = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    return arrays(targets[torch.randperm(len(targets), generator=generator)])


def test_splits_are_disjoint_and_whole():
    data = imbalanced()
    split = make_split(data, 0.1, 0.2, seed=0)
    joined = torch.cat([split[name] for name in NAMES])
    assert torch.equal(joined.sort().values, torch.arange(len(data.targets)))
    assert len(split.test) == round(0.2 * 837)
    assert len(split.validation) == round(0.1 * 837)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_taken_in_proportion(seed):
    data = imbalanced()
    split = make_split(data, 0.1, 0.2, seed)
    sizes = torch.bincount(data.targets)
    for name, fraction in (("test", 0.2), ("validation", 0.1)):
        counts = torch.bincount(data.targets[split[name]], minlength=5)
        assert ((counts - fraction * sizes).abs() <= 1.5).all(), (name, counts)


def test_the_seed_decides():
    data = imbalanced()
    assert torch.equal(make_split(data, 0.1, 0.2, 3).train, make_split(data, 0.1, 0.2, 3).train)
    assert not torch.equal(make_split(data, 0.1, 0.2, 3).test, make_split(data, 0.1, 0.2, 4).test)


def test_position_in_the_file_does_not_decide():
    split = make_split(arrays(torch.zeros(1000, dtype=torch.int64)), 0.0, 0.5, 0)
    assert 440 < split.test.float().mean() < 560


def test_samples_without_a_class_are_split_too():
    targets = torch.arange(100) % 4
    targets[::2] = IGNORE
    split = make_split(arrays(targets), 0.1, 0.2, 0)
    assert (targets[split.test] == IGNORE).sum() == 10


def test_official_splits_stay():
    official = torch.arange(80, 100)
    data = arrays(torch.arange(100) % 2, test=official)
    split = make_split(data, 0.25, 0.0, 0)
    assert torch.equal(split.test, official)
    assert len(split.validation) == 20
    assert len(split.train) == 60
    assert torch.cat([split.train, split.validation]).max() < 80


def test_zero_fractions_leave_empty_splits():
    split = make_split(imbalanced(), 0.0, 0.0, 0)
    assert (len(split.train), len(split.validation), len(split.test)) == (837, 0, 0)


@pytest.mark.parametrize(("val", "test"), [(0.6, 0.4), (-0.1, 0.2), (1.0, 0.0), (0.1, 1.5)])
def test_fractions_out_of_range(val, test):
    with pytest.raises(ValueError, match="sum to less than 1"):
        make_split(imbalanced(), val, test, 0)


def test_nothing_left_to_train_on():
    with pytest.raises(ValueError, match="Nothing left to train on"):
        make_split(arrays([0, 1]), 0.4, 0.4, 0)


def test_saved_and_reloaded(tmp_path):
    data = imbalanced()
    split = make_split(data, 0.1, 0.2, 7)
    path = split.save(tmp_path / "run")
    for given in (path, tmp_path / "run"):
        back = load_split(given, data)
        assert all(torch.equal(back[name], split[name]) for name in NAMES)
        assert back.fingerprint == split.fingerprint
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["split.safetensors"]


def test_fingerprint_tells_splits_apart():
    data = imbalanced()
    assert make_split(data, 0.1, 0.2, 0).fingerprint != make_split(data, 0.1, 0.2, 1).fingerprint


def test_split_of_other_data_is_refused(tmp_path):
    path = make_split(imbalanced(), 0.1, 0.2, 0).save(tmp_path)
    with pytest.raises(ValueError, match="made for other data"):
        load_split(path, arrays(torch.arange(837) % 5))


def test_missing_split_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.split_file"):
        load_split(tmp_path / "none.safetensors", imbalanced())


def test_foreign_and_truncated_files_are_refused(tmp_path):
    data = imbalanced()
    weights = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, weights)
    with pytest.raises(ValueError, match="holds \\['weight'\\]"):
        load_split(weights, data)
    path = make_split(data, 0.1, 0.2, 0).save(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a split saved by this framework"):
        load_split(path, data)


@pytest.mark.parametrize(
    "change",
    [
        {"test": torch.tensor([0, 1])},
        {"train": torch.tensor([], dtype=torch.int64)},
        {"test": torch.tensor([99999])},
        {"test": torch.tensor([-1])},
        {"test": torch.tensor([0.5])},
    ],
)
def test_damaged_positions_are_refused(tmp_path, change):
    data = arrays(torch.arange(20) % 2)
    tensors = {"train": torch.arange(10), "validation": torch.arange(10, 15), "test": torch.arange(15, 20)}
    path = tmp_path / "split.safetensors"
    save_file({**tensors, **change}, path, metadata={"data_fingerprint": data.fingerprint})
    with pytest.raises(ValueError, match="damaged"):
        load_split(path, data)


def test_unknown_split_name():
    with pytest.raises(ValueError, match="train, validation, test"):
        make_split(imbalanced(), 0.1, 0.2, 0)["val"]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "3 samples but 2 targets"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no samples"),
        (torch.zeros(2, 2), torch.zeros(2), "must be int64"),
        (torch.zeros(2, 2), torch.tensor([0, -3]), "1 targets are negative"),
    ],
)
def test_bad_arrays(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        Arrays(inputs, targets, "x")
