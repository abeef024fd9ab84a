"""Reading images that ``job=prepare`` stored, against decoding the folder they came from.

python -m benchmarks.run --only streaming
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from PIL import Image

from benchmarks.clock import alternate, table
from benchmarks.sections import Settings
from kd_lightning.data.arrays import LazyInputs
from kd_lightning.data.images.encoding import Encoding
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.prepare import Conversion
from kd_lightning.data.images.sources.image_folder import ImageFolder
from kd_lightning.data.images.sources.prepared import Prepared
from kd_lightning.data.loader import EpochLoader

BATCH = 64
FOLDER = "folder of JPEGs"


def streaming(settings: Settings) -> str:
    """A batch of 64 in random order, read in this process; and out of the loader with its workers."""
    count, size = (80, 32) if settings.tiny else (512, 224)
    root = settings.folder / "pictures"
    for number in range(count):
        path = root / ("ant", "bee")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _photograph(number, settings.tiny).save(path, quality=92)
    sources: dict[str, ImageFolder | Prepared] = {FOLDER: ImageFolder(str(root), size, round(size / 0.875), 3, 0)}
    bytes_of = {FOLDER: sum(path.stat().st_size for path in root.rglob("*.jpg"))}
    arrays = sources[FOLDER].load()
    for encoding in (Encoding("jpeg", 95), Encoding("png"), Encoding("raw")):
        name = f"prepared, {encoding}"
        folder = settings.folder / f"prepared_{encoding.format}"
        conversion = Conversion(arrays, folder, encoding, 16.0, {"mean": None, "std": None})
        conversion.settle(conversion.estimate())
        conversion.write(range(conversion.chunk_count), 2, lambda done: None)
        conversion.finish()
        sources[name], bytes_of[name] = Prepared(str(folder)), conversion.stored_bytes()
    rounds, steps = settings.rounds(7), 1 if settings.tiny else 2
    here = alternate({name: partial(next, _read(source)) for name, source in sources.items()}, rounds, steps, 1)
    loaders = {name: _loader(source) for name, source in sources.items()}
    loaded = alternate({name: partial(_epoch, loader) for name, loader in loaders.items()}, rounds, 1, 1)
    rows = [
        [
            name,
            f"{bytes_of[name] / count / 1e3:.1f}",
            1e3 * here.median(name),
            f"{here.ratio(FOLDER, name):.2f}x",
            f"{len(loaders[name]) * BATCH / loaded.median(name):.0f}",
            f"{loaded.ratio(FOLDER, name):.2f}x",
        ]
        for name in sources
    ]
    head = ["", "kB an image", "one process, ms a batch", "times folder", "2 workers, images/s", "times folder"]
    note = (
        f"`python -m benchmarks.run --only streaming`; {count} generated photographs of 500x375 pixels as JPEG (quality"
        f" 92), read as 3x{size}x{size} with decode_size {round(size / 0.875)}, batches of {BATCH} in random order. The"
        " files lie in the page cache: a disk or a network widens the gap for small files."
    )
    return table("Prepared images against a folder", head, rows, note)


def _photograph(number: int, tiny: bool) -> Image.Image:
    """Smooth shapes with some grain, which compress about as photographs do."""
    generator = torch.Generator().manual_seed(number)
    size = (75, 100) if tiny else (375, 500)
    coarse = torch.rand(1, 3, 24, 32, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0]
    grain = 0.03 * torch.randn(1, *size, generator=generator)
    return Image.fromarray(((smooth + grain).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())


def _read(source: ImageFolder | Prepared) -> Iterator[torch.Tensor]:
    """Batches read in this process, in an order that is the same for every source."""
    inputs, generator = source.load().inputs, torch.Generator().manual_seed(0)
    assert isinstance(inputs, LazyInputs)
    while True:
        yield inputs.read(torch.randint(0, len(inputs), (BATCH,), generator=generator))


def _loader(source: ImageFolder | Prepared) -> EpochLoader:
    """Training batches of all images, from two workers."""
    statistics = [0.5] * 3
    module = KDDataModule(
        source, batch_size=BATCH, num_workers=2, val_fraction=0, test_fraction=0, mean=statistics, std=statistics
    )
    return module.loader("train", train=True)


def _epoch(loader: EpochLoader) -> None:
    """Whole, so that no worker reads ahead while another contender is measured."""
    for _ in loader:
        pass
