"""The sections of ``benchmarks.run``: each measures one question and prints one table."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks.clock import Step, Times, alternate, table
from benchmarks.loops import (
    MEAN,
    STD,
    BareLoop,
    Job,
    OptimumLoop,
    PublicLoop,
    forever,
    images_per_second,
    kd,
    synthetic,
)
from benchmarks.product import PRODUCT, composed, race, write_cache
from kd_lightning.models.compress.fold import fold_batchnorm

PAIRS = (("resnet56", "resnet8"), ("resnet56", "resnet20"), ("resnet32x4", "resnet8x4"))
FULL = ["trainer.precision=32-true", "trainer.channels_last=false"]


@dataclass
class Settings:
    """How long to measure, and where to write.

    Attributes:
        tiny: So little that the numbers mean nothing.
        folder: For caches and run folders; removed afterwards.
    """

    tiny: bool
    folder: Path

    def rounds(self, wanted: int) -> int:
        """Rounds of a measurement."""
        return 1 if self.tiny else wanted

    def pair(self, teacher: str, student: str) -> tuple[str, str]:
        """The pair, or a small one."""
        return ("resnet8", "resnet8") if self.tiny else (teacher, student)

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return 32


def arguments(
    settings: Settings, teacher: str, student: str, samples: int = 2000, size: int = 32, classes: int = 100
) -> list[str]:
    """Command-line arguments of a training on CIFAR-shaped synthetic data, measured by steps."""
    return [
        "data=synthetic",
        f"data.source.samples={samples}",
        f"data.num_classes={classes}",
        f"data.image_size={size}",
        f"data.mean={list(MEAN)}",
        f"data.std={list(STD)}",
        "data.augment=[{_target_:kd_lightning.data.images.augment.RandomCrop,padding:4},"
        "{_target_:kd_lightning.data.images.augment.HorizontalFlip}]",
        f"model@teacher={teacher}",
        f"model@student={student}",
        "method=kd",
        "trainer=auto",
        "trainer.limit_val_batches=0",
        "callbacks.checkpoint.monitor=null",
        "select=last",
        "teacher.cache=off",
        f"teacher.store={settings.folder}/teachers",
        f"teacher.cache_dir={settings.folder}/cache",
    ]


def overhead(settings: Settings) -> str:
    """Lightning, Distiller, logging, progress bar and loader against the same objects in a bare loop."""
    rows = []
    for teacher, student, size, steps in (
        ("resnet8", "resnet8", 8, 20),
        ("resnet56", "resnet8", 16, 5),
        ("resnet56", "resnet8", 32, 3),
    ):
        teacher, student = settings.pair(teacher, student)
        command = [*arguments(settings, teacher, student, 1000 if settings.tiny else 20_000, size), *FULL]
        data = instantiate(composed(command).data)
        data.prepare()
        job = Job(teacher, student, *synthetic(200, size))
        times = race(command, {"bare": BareLoop(job, data).step}, settings.rounds(11), 2 if settings.tiny else steps)
        bare, extra = times.median("bare"), times.difference(PRODUCT, "bare")
        name = f"{teacher} -> {student}, {size}x{size}"
        rows.append([name, 1e3 * bare, 1e3 * times.median(PRODUCT), 1e3 * extra, f"{100 * extra / bare:.1f} %"])
    head = ["step", "bare loop, ms", "product, ms", "overhead, ms", "share"]
    note = "`python -m benchmarks.run --only overhead`; batch 64, float32, progress bar and CSV log on."
    return table("Framework overhead", head, rows, note)


def pairs(settings: Settings) -> str:
    """The product, live and cached, against a public-style loop and the optimum by hand."""
    rows = []
    for teacher, student in PAIRS[:1] if settings.tiny else PAIRS:
        heavy = "x4" in teacher
        teacher, student = settings.pair(teacher, student)
        count = 200 if settings.tiny else 1500
        command = arguments(settings, teacher, student, count)
        job = Job(teacher, student, *synthetic(count, 32))
        rounds, steps = settings.rounds(5 if heavy else 9), 1 if settings.tiny else (2 if heavy else 5)
        live = race(command, {"public": PublicLoop(job).step, "optimum": OptimumLoop(job).step}, rounds, steps)
        stored = ["teacher.views=2"]
        write_cache([*command, *stored])
        others = {"public": PublicLoop(job).step, "optimum": OptimumLoop(job, cached=True).step}
        cached = race([*command, *stored, "teacher.cache=read"], others, rounds, steps)
        for name, times in (("live", live), ("cached", cached)):
            rows.append(
                [
                    f"{teacher} -> {student}, {name}",
                    *(images_per_second(job.batch, times.median(k)) for k in ("public", PRODUCT, "optimum")),
                    f"{times.ratio('public', PRODUCT):.2f}x",
                    f"{100 * times.ratio('optimum', PRODUCT):.0f} %",
                ]
            )
    head = ["", "public style, images/s", "product", "optimum by hand", "times public", "of the optimum"]
    note = (
        "`python -m benchmarks.run --only pairs`; batch 64, CIFAR-shaped. Public style: per-sample PIL transforms in"
        " the loop, float32, live teacher, meters with item(). Optimum: batched augmentation, channels-last, bf16,"
        " folded teacher (live) or logits in memory (cached). Product: `trainer=auto`, through `job=train`."
    )
    return table("Training step, end to end", head, rows, note)


def data_path(settings: Settings) -> str:
    """One augmented batch: the product's, the optimum's and the public style's."""
    count = 200 if settings.tiny else 2000
    command = arguments(settings, "resnet8", "resnet8", count)
    data = instantiate(composed(command).data)
    data.prepare()
    job = Job("resnet8", "resnet8", *synthetic(count, 32))
    batches, public, optimum = forever(data.loader("train", train=True)), PublicLoop(job), OptimumLoop(job)
    times = alternate(
        {
            "per sample, PIL": lambda: next(public.batches),
            "batched, product": lambda: data.ready(next(batches)),
            "batched, optimum by hand": optimum.batch,
        },
        settings.rounds(15),
        steps=5,
    )
    return _contenders("Data path, one batch of 64", "data", times, "per sample, PIL")


def _contenders(title: str, section: str, times: Times, base: str, note: str = "") -> str:
    rows = [[name, 1e3 * times.median(name), f"{times.ratio(base, name):.2f}x"] for name in times.rounds]
    note = f"`python -m benchmarks.run --only {section}`{note}"
    return table(title, ["", "ms", f"times {base}"], rows, note)


def student_step(net: nn.Module, image: Tensor, target: Tensor, bf16: bool, fused: bool = True) -> Step:
    """Forward, backward and optimiser of one net."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(image)
        kd(logits, logits.detach(), target).backward()
        optimizer.step()

    return step


def in_layout(net: nn.Module, last: bool) -> nn.Module:
    return copy.deepcopy(net).to(memory_format=torch.channels_last if last else torch.contiguous_format)


def precision(settings: Settings) -> str:
    """A student's step in float32 and bfloat16, in both layouts."""
    rows = []
    for name, size in (("resnet8", 8), ("resnet8", 32), ("resnet20", 32), ("resnet8x4", 32)):
        student = settings.pair(name, name)[0]
        job = Job(student, student, *synthetic(200, size))
        net, target = job.nets()[1], torch.randint(0, 100, (64,))
        image = torch.randn(64, 3, size, size)
        last = image.contiguous(memory_format=torch.channels_last)
        contenders = {
            "32-true": student_step(in_layout(net, False), image, target, False),
            "32-true channels-last": student_step(in_layout(net, True), last, target, False),
            "bf16": student_step(in_layout(net, False), image, target, True),
            "bf16 channels-last": student_step(in_layout(net, True), last, target, True),
        }
        times = alternate(contenders, settings.rounds(7))
        rows.append([f"{student}, {size}x{size}", *(1e3 * times.median(c) for c in contenders),
                     f"{times.ratio('32-true', 'bf16 channels-last'):.2f}x"])  # fmt: skip
    head = ["student step, ms", *contenders, "gain"]
    return table("Precision and layout", head, rows, "`python -m benchmarks.run --only precision`; batch 64.")


def frozen_teacher(settings: Settings) -> str:
    """The frozen teacher's forward: folding, layout, precision, inference mode."""
    teacher = settings.pair("resnet56", "resnet8")[0]
    net = Job(teacher, "resnet8", *synthetic(200, 32)).nets()[0]
    image = torch.randn(64, 3, 32, 32)
    last = image.contiguous(memory_format=torch.channels_last)
    folded = in_layout(fold_batchnorm(net).requires_grad_(False), True)
    plain = in_layout(net, True)

    def forward(net: nn.Module, image: Tensor, bf16: bool = False, mode: Any = torch.no_grad) -> Step:
        def step() -> None:
            with mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                net(image)

        return step

    contenders = {
        "float32": forward(net, image),
        "channels-last": forward(plain, last),
        "channels-last, folded": forward(folded, last),
        "bf16, channels-last": forward(plain, last, True),
        "bf16, channels-last, folded": forward(folded, last, True),
        "the same in inference_mode": forward(folded, last, True, torch.inference_mode),
    }
    times = alternate(contenders, settings.rounds(9))
    return _contenders(f"Frozen {teacher}, one batch of 64", "teacher", times, "float32")


def _small() -> nn.Module:
    """Compiled in seconds."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 100))


def compiled(settings: Settings) -> str:
    """``net.compile()`` of teacher and student, bf16 and channels-last."""
    teacher, student = settings.pair("resnet56", "resnet8")
    nets = (_small(), _small()) if settings.tiny else Job(teacher, student, *synthetic(200, 32)).nets()
    last = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 100, (64,))

    def forward(net: nn.Module) -> Step:
        def step() -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                net(last)

        return step

    folded = fold_batchnorm(nets[0]).requires_grad_(False)
    steps, seconds = {}, {}
    for kind in ("eager", "compiled"):
        pair = in_layout(folded, True), in_layout(nets[1], True)
        steps[f"{teacher} forward, {kind}"] = forward(pair[0])
        steps[f"{student} step, {kind}"] = student_step(pair[1], last, target, True)
        if kind == "compiled":
            for net, name in zip(pair, (f"{teacher} forward", f"{student} step"), strict=True):
                net.compile()
                started = time.perf_counter()
                steps[f"{name}, compiled"]()
                seconds[name] = time.perf_counter() - started
    times = alternate(steps, settings.rounds(9))
    rows = [
        [name, 1e3 * times.median(f"{name}, eager"), 1e3 * times.median(f"{name}, compiled"),
         f"{times.ratio(f'{name}, eager', f'{name}, compiled'):.2f}x", f"{first:.0f} s"]
        for name, first in seconds.items()
    ]  # fmt: skip
    head = ["", "eager, ms", "compiled, ms", "gain", "first call"]
    return table("torch.compile", head, rows, "`python -m benchmarks.run --only compile`; batch 64, 32x32, bf16.")


def samples(settings: Settings) -> str:
    """The product's step against the size of the data set: the loader must not notice."""
    rows = []
    counts = (200, 400) if settings.tiny else (2_000, 20_000, 200_000)
    for count in counts:
        command = arguments(settings, "resnet8", "resnet8", count, size=8)
        job = Job("resnet8", "resnet8", *synthetic(200, 8))
        optimum = OptimumLoop(job, bf16=False)
        times = race([*command, *FULL], {"reference": optimum.step}, settings.rounds(11), 1 if settings.tiny else 10)
        rows.append([count, 1e3 * times.median(PRODUCT), times.median(PRODUCT) / times.median("reference")])
    note = "`python -m benchmarks.run --only samples`; resnet8 -> resnet8, 8x8. The reference does not change."
    return table("Cost against the number of samples", ["samples", "step, ms", "of the reference"], rows, note)


def classes(settings: Settings) -> str:
    """The product's step against the number of classes."""
    rows = []
    for count in (10, 100) if settings.tiny else (10, 100, 1_000, 10_000):
        command = arguments(settings, "resnet8", "resnet8", max(2000, 2 * count), size=8, classes=count)
        if settings.tiny:
            command.append("data.source.samples=400")
        job = Job("resnet8", "resnet8", *synthetic(200, 8, 100))
        times = race([*command, *FULL], {"reference": OptimumLoop(job, bf16=False).step}, settings.rounds(11),
                     1 if settings.tiny else 10)  # fmt: skip
        rows.append([count, 1e3 * times.median(PRODUCT), times.median(PRODUCT) / times.median("reference")])
    note = "`python -m benchmarks.run --only classes`; resnet8 -> resnet8, 8x8. The reference has 100 classes."
    return table("Cost against the number of classes", ["classes", "step, ms", "of the reference"], rows, note)


def students(settings: Settings) -> str:
    """Several students of one teacher, live and from one cache."""
    teacher, student = settings.pair("resnet56", "resnet8")
    count = 200 if settings.tiny else 5000
    command, stored = arguments(settings, teacher, student, count), ["teacher.views=2"]
    reference = OptimumLoop(Job(teacher, student, *synthetic(count, 32)))
    rounds, steps = settings.rounds(9), 1 if settings.tiny else 5
    live = race(command, {"reference": reference.step}, rounds, steps)
    # The cache of this command, without those of other sections.
    command = [*command, f"teacher.cache_dir={settings.folder}/students"]
    seconds, batches = write_cache([*command, *stored])
    cached = race([*command, *stored, "teacher.cache=read"], {"reference": reference.step}, rounds, steps)
    drift = live.median("reference") / cached.median("reference")
    step, read, write = live.median(PRODUCT), cached.median(PRODUCT) * drift, seconds / batches * drift
    epochs, views = 240, 24
    rows = []
    for number in (1, 4, 16):
        total_live, total_cached = number * epochs * step, number * epochs * read + views * write
        rows.append(
            [number, total_live / step / epochs, total_cached / step / epochs, f"{total_live / total_cached:.2f}x"]
        )
    note = (
        f"`python -m benchmarks.run --only students`; {teacher} -> {student}, {epochs} epochs, {views} views. In units"
        f" of one live training. Computed from three measured costs of a batch of 64: live step {1e3 * step:.1f} ms,"
        f" step that reads {1e3 * read:.1f} ms, writing {1e3 * write:.1f} ms."
    )
    return table("Students of one teacher", ["students", "live", "cached, writing included", "gain"], rows, note)
