"""The GPU figures, in one command and within eight minutes on one card.

    python -m benchmarks.gpu            on a machine with a GPU
    python -m benchmarks.gpu --tiny     to the end on a CPU; the numbers mean nothing

The floor of a step is its arithmetic (teacher forward, student forward and backward) at the rate at which this card
multiplies large bfloat16 matrices: a share of 100 % would be a step of nothing but such products.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import alternate, machine, synchronise, table, timed
from benchmarks.loops import Job, OptimumLoop, PublicLoop, synthetic
from benchmarks.product import PRODUCT, composed, race
from benchmarks.sections import Settings, arguments
from kd_lightning.losses.forward_kl import forward_kl_loss

BUDGET = 8 * 60


@dataclass
class Card:
    """Where it runs, and how fast that multiplies.

    Attributes:
        device: cuda or cpu.
        rate: Floating-point operations a second of a large bfloat16 product.
        deadline: When no new figure is begun.
        settings: How much.
    """

    device: str
    rate: float
    deadline: float
    settings: Settings

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline


def matmul_rate(device: str, size: int) -> float:
    """Operations a second of a bfloat16 product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = alternate({"matmul": lambda: a @ b}, rounds=5, steps=5)
    return 2 * size**3 / min(times.rounds["matmul"])


def arithmetic(teacher: nn.Module, student: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Operations of a step: the teacher's forward and three times the student's."""
    counts = []
    for net in (teacher, student):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(*example)
        counts.append(counter.get_total_flops())
    return counts[0] + 3 * counts[1]


def pair(card: Card, teacher: str, student: str, batch: int, size: int, samples: int) -> list[list[object]]:
    """Images a second of the product, eager and compiled, and of loops by hand where there are any."""
    command = [*arguments(card.settings, teacher, student, samples, size), f"data.batch_size={batch}"]
    cfg = composed(command)
    nets = [instantiate(cfg[role].net) for role in ("teacher", "student")]
    image = torch.randn(batch, 3, size, size)
    floor = arithmetic(nets[0].eval(), nets[1].eval(), (image,)) / card.rate
    others: dict[str, Callable[[], object]] = {}
    if size == 32:
        job = Job(teacher, student, *synthetic(samples, size), batch=batch)
        others["public style"] = PublicLoop(job, workers=0 if card.settings.tiny else 8, device=card.device).step
        others["optimum by hand"] = OptimumLoop(job, device=card.device).step
    rounds, steps = card.settings.rounds(5), 1 if card.settings.tiny else 10
    rows: list[list[object]] = []
    for compiled in (False, True):
        if compiled and (card.late or card.settings.tiny):
            rows.append([f"product, compile=true, batch {batch}", "not measured", "", ""])
            continue
        times = race([*command, f"compile={str(compiled).lower()}"], {} if compiled else others, rounds, steps)
        for name in times.rounds:
            label = "product, compile=true" if compiled else name.replace(PRODUCT, "product")
            seconds = times.median(name)
            share = f"{100 * floor / seconds:.0f} %"
            rows.append([f"{label}, batch {batch}", f"{batch / seconds:.0f}", 1e3 * seconds, share])
    return rows


def cifar(card: Card) -> None:
    """resnet32x4 -> resnet8x4 on CIFAR shapes."""
    nets = ("resnet8", "resnet8") if card.settings.tiny else ("resnet32x4", "resnet8x4")
    rows = [row for batch in ((8,) if card.settings.tiny else (64, 512))
            for row in pair(card, *nets, batch, 32, 200 if card.settings.tiny else 20_000)]  # fmt: skip
    table(f"{nets[0]} -> {nets[1]}, 3x32x32", ["", "images/s", "step, ms", "of the floor"], rows)


def imagenet(card: Card) -> None:
    """resnet34 -> resnet18 on ImageNet shapes."""
    nets = ("tv_resnet18", "tv_resnet18") if card.settings.tiny else ("tv_resnet34", "tv_resnet18")
    batch, size, samples = (4, 64, 200) if card.settings.tiny else (128, 224, 4000)
    rows = pair(card, *nets, batch, size, samples)
    table(f"{nets[0]} -> {nets[1]}, 3x{size}x{size}", ["", "images/s", "step, ms", "of the floor"], rows)


def gpt2(card: Card) -> None:
    """GPT-2 of 12 layers into one of 6, V = 50,257: loop by hand with the product's forward KL."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = card.settings.tiny
    shape = {"n_embd": 32, "n_head": 2, "vocab_size": 200} if tiny else {"n_embd": 768, "n_head": 12}
    batch, tokens = (2, 16) if tiny else (8, 512)
    teacher = GPT2LMHeadModel(GPT2Config(n_layer=2 if tiny else 12, **shape)).to(card.device).eval()
    student = GPT2LMHeadModel(GPT2Config(n_layer=1 if tiny else 6, **shape)).to(card.device)
    teacher.requires_grad_(False)
    ids = torch.randint(0, teacher.config.vocab_size, (batch, tokens), device=card.device)
    floor = arithmetic(teacher, student.eval(), (ids,)) / card.rate
    optimizer = torch.optim.AdamW(student.train().parameters(), 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(card.device, torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(ids).logits
            loss = forward_kl_loss(student(ids).logits, wanted)
        loss.backward()
        optimizer.step()

    times = alternate({"step": step}, card.settings.rounds(5), steps=1 if tiny else 5)
    seconds = times.median("step")
    row = ["forward KL, bf16", f"{batch * tokens / seconds:.0f}", 1e3 * seconds, f"{100 * floor / seconds:.0f} %"]
    title = f"GPT-2 {teacher.config.n_layer} -> {student.config.n_layer} layers, V = {teacher.config.vocab_size}"
    table(title, ["", "tokens/s", "step, ms", "of the floor"], [row])


def divergence(card: Card) -> None:
    """Head and divergence at V = 128k: all logits at once, and in chunks that are computed again in the backward."""
    tiny = card.settings.tiny
    tokens, width, vocabulary, chunk = (64, 16, 1000, 16) if tiny else (4096, 2048, 128_256, 512)
    dtype = torch.bfloat16 if card.device == "cuda" else torch.float32
    hidden = torch.randn(tokens, width, device=card.device, dtype=dtype, requires_grad=True)
    target = torch.randn(tokens, width, device=card.device, dtype=dtype)
    heads = [torch.randn(vocabulary, width, device=card.device, dtype=dtype) / width**0.5 for _ in range(2)]
    heads[0].requires_grad_(True)

    def part(student: Tensor, teacher: Tensor) -> Tensor:
        return forward_kl_loss(student @ heads[0].T, teacher @ heads[1].T) * (len(student) / tokens)

    def whole() -> None:
        part(hidden, target).backward()

    def chunks() -> None:
        for s, t in zip(hidden.split(chunk), target.split(chunk), strict=True):
            checkpoint(part, s, t, use_reentrant=False).backward()

    rows = []
    for name, step in (("at once", whole), (f"in chunks of {chunk}", chunks)):
        try:
            hidden.grad = heads[0].grad = None
            if card.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            seconds = min(timed(step, 1) for _ in range(2 if tiny else 4))
            peak = torch.cuda.max_memory_allocated() / 1e9 if card.device == "cuda" else float("nan")
            rows.append([name, 1e3 * seconds, peak])
        except torch.OutOfMemoryError:
            rows.append([name, "out of memory", ""])
    table(f"Divergence of {tokens} tokens at V = {vocabulary}", ["", "ms", "peak memory, GB"], rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes, also on a CPU")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.tiny:
        raise SystemExit("No GPU here. `--tiny` runs every figure on the CPU, to see that it runs.")
    warnings.filterwarnings("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    print(f"Machine: {machine()}\n")
    rate = matmul_rate(device, 256 if args.tiny else 8192)
    print(f"bfloat16 products: {rate / 1e12:.2f} TFLOP/s\n")
    with tempfile.TemporaryDirectory() as folder:
        card = Card(device, rate, time.monotonic() + BUDGET, Settings(args.tiny, Path(folder)))
        for figure in (cifar, imagenet, gpt2, divergence):
            if card.late:
                print(f"{figure.__name__}: not measured, the {BUDGET // 60} minutes are over\n")
                continue
            figure(card)
            synchronise()


if __name__ == "__main__":
    main()
