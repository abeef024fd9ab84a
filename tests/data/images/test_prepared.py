"""The stored form of images, and reading it."""

import json
import pickle

import pytest
import torch

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.encoding import Encoding
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.prepare import Conversion
from kd_lightning.data.images.sources.prepared import Prepared


def arrays(samples=50, channels=3, **kwargs):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, channels, 8, 6), dtype=torch.uint8, generator=generator)
    targets = torch.arange(samples) % 4
    return Arrays(images, targets, fingerprint(images, targets), **kwargs)


def prepare(folder, data=None, encoding=None, chunk_mb=0.001):
    data = data or arrays()
    statistics = {"mean": data.mean, "std": data.std}
    conversion = Conversion(data, folder, encoding or Encoding("png"), chunk_mb, statistics)
    conversion.settle(conversion.estimate())
    conversion.write(range(conversion.chunk_count), 2, lambda done: None)
    conversion.finish()
    return conversion


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["png", "raw"])
def test_images_come_back(tmp_path, channels, format):
    data = arrays(channels=channels)
    conversion = prepare(tmp_path, data, Encoding(format))
    assert conversion.chunk_count > 2
    read = Prepared(str(tmp_path)).load().inputs
    order = torch.tensor([49, 0, 17, 17, 3])
    images = read.read(order)
    assert images.shape == (5, channels, 8, 6)
    assert images.dtype == torch.uint8
    assert torch.equal(images, data.inputs[order])
    assert read.read(order[:0]).shape == (0, channels, 8, 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_nearly_the_image_and_quality_counts(channels):
    ramp = torch.arange(64, dtype=torch.uint8).mul(3).expand(channels, 48, 64)
    good, poor = Encoding("jpeg", 95).encode(ramp), Encoding("jpeg", 5).encode(ramp)
    assert len(poor) < len(good)
    back = Encoding("jpeg", 95).decode(good, (channels, 48, 64))
    assert (back.int() - ramp.int()).abs().max() <= 3
    with pytest.raises(ValueError, match="expected an image"):
        Encoding("jpeg").decode(good, (channels, 48, 63))


def test_what_is_known_of_the_data_stays(tmp_path):
    data = arrays(
        class_names=("a", "b", "c", "d"),
        test=torch.arange(40, 50),
        validation=torch.arange(30, 40),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        decode_size=9,
    )
    prepare(tmp_path, data)
    found = Prepared(str(tmp_path)).load()
    for name in ("class_names", "mean", "std", "decode_size"):
        assert getattr(found, name) == getattr(data, name)
    for name in ("targets", "test", "validation"):
        assert torch.equal(getattr(found, name), getattr(data, name))


def test_batches_in_workers_are_those_of_the_arrays(tmp_path):
    class Held:
        def load(self):
            return arrays()

    prepare(tmp_path)
    modules = [
        KDDataModule(source, batch_size=8, num_workers=workers, mean=[0.5] * 3, std=[0.5] * 3)
        for source, workers in ((Held(), 0), (Prepared(str(tmp_path)), 2))
    ]
    for train in (True, False):
        batches = [[m.ready(b) for b in m.loader("train" if train else "test", train=train)] for m in modules]
        assert len(batches[0]) > 0
        for expected, found in zip(*batches, strict=True):
            for key in ("image", "target", "index"):
                assert torch.equal(expected[key], found[key])


def test_readers_travel_to_other_processes(tmp_path):
    prepare(tmp_path)
    images = Prepared(str(tmp_path)).load().inputs
    first = images.read(torch.tensor([5]))
    assert torch.equal(pickle.loads(pickle.dumps(images)).read(torch.tensor([5])), first)


def test_fingerprint_is_of_the_content(tmp_path):
    def of(name, data):
        prepare(tmp_path / name, data)
        return Prepared(str(tmp_path / name)).load().fingerprint

    assert of("a", arrays()) == of("b", arrays())
    other = arrays()
    other.inputs[3, 0, 0, 0] += 1
    assert of("c", other) != of("a2", arrays())
    assert of("d", arrays(test=torch.arange(5))) != of("a3", arrays())


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    prepare(tmp_path)
    path = tmp_path / "chunk-000001.bin"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    found = Prepared(str(tmp_path)).load()
    chunk = found.inputs.chunk_samples
    found.inputs.read(torch.arange(2 * chunk - 1))
    with pytest.raises(ValueError, match=rf"Image {2 * chunk - 1} in chunk 1 .* checksum.*job=prepare"):
        found.inputs.read(torch.arange(2 * chunk))


@pytest.mark.parametrize("what", ["short", "gone", "index", "rows", "facts", "foreign rows", "version"])
def test_damaged_files_are_refused_at_the_start(tmp_path, what):
    root = tmp_path / "a"
    prepare(root)
    chunk = root / "chunk-000002.bin"
    if what == "short":
        chunk.write_bytes(chunk.read_bytes()[:-1])
    elif what == "gone":
        chunk.unlink()
    elif what == "foreign rows":
        prepare(tmp_path / "b", arrays(test=torch.arange(5)))
        (root / "samples.safetensors").write_bytes((tmp_path / "b" / "samples.safetensors").read_bytes())
    elif what == "version":
        facts = json.loads((root / "prepared.json").read_text())
        (root / "prepared.json").write_text(json.dumps({**facts, "version": 0}))
    else:
        name = {"index": "index.json", "rows": "samples.safetensors", "facts": "prepared.json"}[what]
        (root / name).write_text("{")
    named = {"short": chunk.name, "gone": chunk.name, "index": "index.json", "facts": "prepared.json"}
    with pytest.raises(ValueError, match=named.get(what, "version 0" if what == "version" else "samples")):
        Prepared(str(root)).load()


def test_nothing_there_and_near_names(tmp_path):
    prepare(tmp_path / "flowers")
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*flowers\?.*job=prepare"):
        Prepared(str(tmp_path / "flower")).load()
    (tmp_path / "flowers" / "prepared.json").unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        Prepared(str(tmp_path / "flowers")).load()


def test_unknown_formats_by_near_names():
    with pytest.raises(ValueError, match="Did you mean jpeg"):
        Encoding("jpg")
    with pytest.raises(ValueError, match="1 to 100"):
        Encoding("jpeg", 0)
