"""Random reads of the teacher cache beside a student's step."""

from __future__ import annotations

import tempfile

import torch

from benchmarks.clock import alternate, table
from benchmarks.sections import Settings, in_layout, student_step
from kd_lightning.cache.shards import write_shard
from kd_lightning.cache.store import Signal, Store, StoredSignals
from kd_lightning.models.resnet import resnet8

SHAPES = {"logits (100)": (100,), "embedding (256)": (256,), "map (64x8x8)": (64, 8, 8)}


def reads(settings: Settings) -> str:
    """One batch of 64 random rows of a store against the student's step that uses them."""
    count, batch = (300, 8) if settings.tiny else (20_000, 64)
    image, target = torch.randn(batch, 3, 32, 32), torch.randint(0, 100, (batch,))
    net = in_layout(resnet8(100), True).train()
    step = student_step(net, image.contiguous(memory_format=torch.channels_last), target, bf16=not settings.tiny)
    generator, rows = torch.Generator().manual_seed(0), []
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            signal = Signal(name, shape, torch.float16, torch.float32)
            store = Store(folder, {"of": name}, count)
            for place in store.places([signal], 1):
                values = torch.randn(store.rows_of(place), *shape).half()
                write_shard(store.path(place), values, store.identity(place))
            stored = StoredSignals(store, {name: signal}, "teacher")

            def read(stored: StoredSignals = stored) -> object:
                return stored(torch.randint(0, count, (batch,), generator=generator), 0)

            times = alternate({"step": step, "read": read}, settings.rounds(21), 1 if settings.tiny else 5)
            share = times.ratio("read", "step")
            rows.append([name, 1e3 * times.median("step"), 1e3 * times.median("read"), f"{100 * share:.1f} %"])
    note = (
        f"`python -m benchmarks.run --only reads`; {batch} random rows of {count:,} in float16, read from mapped files"
        " in the page cache; the step is resnet8 at 32x32, the smallest student of the CIFAR family, in bf16."
    )
    return table("Random reads of the teacher cache", ["signal", "step, ms", "read, ms", "share"], rows, note)
