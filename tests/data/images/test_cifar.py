"""CIFAR from pickles, read safely."""

import io
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
import torch

from kd_lightning.data.images.sources import archive
from kd_lightning.data.images.sources.cifar import CIFAR


def batch(n, classes, key, seed):
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key: [i % 4 * (classes // 4) for i in range(n)]}


def cifar100(folder, protocol=2, n=30):
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    contents = {
        "train": batch(n, 100, "fine_labels", 0),
        "test": batch(10, 100, "fine_labels", 1),
        "meta": {"fine_label_names": [f"class {i}" for i in range(100)]},
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder, contents


def cifar10(folder):
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch(4, 10, "labels", i)))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(3, 10, "labels", 9)))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [b"plane"] * 10}))
    return folder


@pytest.mark.parametrize("protocol", range(6))
def test_reads_every_pickle_protocol(tmp_path, protocol):
    _, contents = cifar100(tmp_path, protocol)
    arrays = CIFAR(100, str(tmp_path), download=False).load()
    expected = np.concatenate([contents["train"]["data"], contents["test"]["data"]]).reshape(-1, 3, 32, 32)
    assert torch.equal(arrays.inputs, torch.from_numpy(expected))
    assert arrays.targets.tolist() == contents["train"]["fine_labels"] + contents["test"]["fine_labels"]
    assert torch.equal(arrays.test, torch.arange(30, 40))
    assert arrays.class_names[7] == "class 7"


def test_reads_python_2_pickles_as_the_official_files_are(tmp_path):
    """Byte strings as opcode U/T, numpy.core names: written by hand, since Python 3 cannot."""
    pixels = bytes(range(256)) * 12
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + len(pixels).to_bytes(4, "little") + pixels
    state = b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89" + content + b"t"
    raw = b"\x80\x02}(U\x04data" + array + state + b"bU\x0bfine_labels](K\x2aeu."
    folder, _ = cifar100(tmp_path)
    (folder / "train").write_bytes(raw)
    arrays = CIFAR(100, str(folder), download=False).load()
    assert arrays.inputs[0].flatten().tolist() == list(pixels)
    assert arrays.targets[0] == 42


def test_fortran_order_is_understood(tmp_path):
    folder, contents = cifar100(tmp_path)
    content = contents["train"]
    (folder / "train").write_bytes(pickle.dumps({**content, "data": np.asfortranarray(content["data"])}))
    arrays = CIFAR(100, str(tmp_path), download=False).load()
    assert torch.equal(arrays.inputs[:30], torch.from_numpy(content["data"]).view(-1, 3, 32, 32))


def test_root_may_be_the_folder_or_the_archive(tmp_path):
    folder = cifar10(tmp_path / "there")
    archive = tmp_path / "packed" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    roots = [folder, folder.parent, archive.parent, archive]
    loaded = [CIFAR(10, str(root), download=False).load() for root in roots]
    assert len({arrays.fingerprint for arrays in loaded}) == 1
    assert len(loaded[0].targets) == 23
    assert loaded[0].class_names[0] == "plane"
    assert [p.name for p in archive.parent.iterdir()] == ["cifar-10-python.tar.gz"]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def evil_pickles(target):
    plain = batch(3, 100, "fine_labels", 0)
    yield pickle.dumps({**plain, "extra": Evil(target)})
    yield pickle.dumps(Evil(target), protocol=0)
    yield b"cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR."
    yield b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.ctx\x93)R."  # a dotted name below an allowed one
    yield b"cnumpy\nload\n(S'" + str(target).encode() + b"'\ntR."
    yield pickle.dumps({**plain, "data": np.array([[Evil(target)]], dtype=object)})
    yield b"c_codecs\nencode\n(Vx\nVrot13\ntR."


@pytest.mark.parametrize("kind", range(7))
def test_code_in_a_pickle_does_not_run(tmp_path, kind):
    folder, _ = cifar100(tmp_path)
    touched = tmp_path / "touched"
    (folder / "train").write_bytes(list(evil_pickles(touched))[kind])
    with pytest.raises(ValueError, match="'train' is truncated or not one of CIFAR-100"):
        CIFAR(100, str(tmp_path), download=False).load()
    assert not touched.exists()


def test_what_an_unsafe_pickle_asks_for_is_named(tmp_path):
    folder, _ = cifar100(tmp_path)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": Evil(tmp_path / "touched")}))
    with pytest.raises(ValueError, match=r"'meta'.*io\.open.*do not trust"):
        CIFAR(100, str(tmp_path), download=False).load()


def replaced(**changes):
    content = batch(5, 100, "fine_labels", 0)
    content.update(changes)
    return pickle.dumps({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(batch(5, 100, "fine_labels", 0))[:-200], ""),
        (b"", "Ran out of input"),
        (b"\x89PNG and so on", "persistent id"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(batch(5, 10, "labels", 0)), "no 'fine_labels', only data, labels"),
        (replaced(data=None), "no 'data'"),
        (replaced(data=[1, 2]), "not an array"),
        (replaced(data=np.zeros((5, 3072))), "holds f8, not bytes"),
        (replaced(data=np.zeros((5, 100), np.uint8)), r"shape \(5, 100\)"),
        (replaced(data=np.zeros((0, 3072), np.uint8), fine_labels=[]), r"0 bytes do not fill the shape \(0, 3072\)"),
        (replaced(fine_labels=[0, 1]), "5 images and 2 labels"),
        (replaced(fine_labels=[0, 1, 2, 3, 100]), r"not in 0\.\.99"),
        (replaced(fine_labels=[0, 1, 2, 3, -1]), r"not in 0\.\.99"),
        (replaced(fine_labels=[0, 1, 2, 3, "4"]), "not a list of integers"),
        (b"cnumpy\nndarray\n)R.", "holds a Array"),
        (b"}(S'data'\ncnumpy\nndarray\n)RS'fine_labels'\n]u.", "malformed"),
        (b"}(S'data'\ncnumpy\nndarray\n)R(I1\n(I1\nI2\ntI3\nI00\nI4\ntbS'fine_labels'\n]u.", "malformed"),
    ],
)
def test_damaged_and_foreign_files_are_named(tmp_path, data, message):
    folder, _ = cifar100(tmp_path)
    (folder / "test").write_bytes(data)
    with pytest.raises(ValueError, match=f"'test' is truncated or not one of CIFAR-100.*{message}"):
        CIFAR(100, str(tmp_path), download=False).load()


def test_wrong_class_names(tmp_path):
    folder, _ = cifar100(tmp_path)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["one"]}))
    with pytest.raises(ValueError, match="not 100 names"):
        CIFAR(100, str(tmp_path), download=False).load()


def test_missing_files_are_named(tmp_path):
    folder, _ = cifar100(tmp_path)
    (folder / "meta").unlink()
    with pytest.raises(FileNotFoundError, match="meta missing"):
        CIFAR(100, str(tmp_path)).load()


def test_truncated_and_foreign_archives(tmp_path):
    folder, _ = cifar100(tmp_path / "there")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "train", "cifar-100-python/train")
    with pytest.raises(ValueError, match="does not hold test, meta"):
        CIFAR(100, str(tmp_path)).load()
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cifar-100-python\.tar\.gz is truncated"):
        CIFAR(100, str(tmp_path)).load()


def test_absent_data_says_what_goes_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"download is false.*cifar-100-python\.tar\.gz.*data\.root"):
        CIFAR(100, str(tmp_path), download=False).load()


def test_absent_data_without_network(tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(archive.urllib.request, "urlopen", refuse)
    with pytest.raises(FileNotFoundError, match=r"the download failed .*no network.*data\.root"):
        CIFAR(10, str(tmp_path / "new")).load()
    assert not (tmp_path / "new").exists()


def test_download_with_a_wrong_checksum_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(archive.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"not the archive"))
    with pytest.raises(ValueError, match="arrived damaged"):
        CIFAR(10, str(tmp_path)).load()
    assert list(tmp_path.iterdir()) == []


def test_download_is_kept_where_it_is_whole(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.setattr(archive.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"content"))
    path = tmp_path / "new" / "file.tar.gz"
    archive.download("https://x", hashlib.md5(b"content").hexdigest(), path)
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_only_ten_or_a_hundred_classes():
    with pytest.raises(ValueError, match="10 or 100"):
        CIFAR(20)
