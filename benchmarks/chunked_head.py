"""Memory and time of the chunked head beside whole logits, forward and backward, each in a process of its own.

    python -m benchmarks.chunked_head [--vocabulary 128000] [--tokens 4096] [--width 256] [--tiny]

Peak memory is that of the process (beyond what it had before the step) and of the tensors that the step had alive at
once. Time is CPU seconds, the best of --repeats steps, the two taking turns; on a GPU wall-clock. Where there is a GPU
and the package liger_kernel, its fused linear JSD is a third row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.memory import peak_bytes
from kd_lightning.losses.chunked_head import chunked_head_loss
from kd_lightning.losses.jsd import jsd_loss

GIB = 2**30


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256, help="of student and teacher")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 0.5], help="0 is the forward KL")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="only to see that it runs")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.vocabulary, options.tokens, options.width, options.repeats = 500, 64, 8, 1
    if options.worker:
        kind, beta, folder = options.worker
        print(json.dumps(measure(kind, float(beta), options, Path(folder))))
        return
    kinds = ["eager", "chunked"] + (["liger"] if has_liger() else [])
    print(f"V = {options.vocabulary:,}, {options.tokens:,} tokens, width {options.width}, float32, {machine()}\n")
    print("| divergence | form | peak of the process, GiB | peak of tensors, GiB | of eager | seconds | of eager |"
          " largest difference of a gradient |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for beta in options.betas:
        with tempfile.TemporaryDirectory() as folder:
            table(beta, kinds, options, Path(folder))


def table(beta: float, kinds: list[str], options: argparse.Namespace, folder: Path) -> None:
    """The rows of one divergence."""
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.repeats):
        for kind in kinds:
            runs[kind].append(in_process(kind, beta, options, folder))
    best = {kind: {key: min(run[key] for run in of) for key in of[0]} for kind, of in runs.items()}
    right = torch.load(folder / "eager.pt")
    name = {0.0: "forward KL", 1.0: "reverse KL"}.get(beta, f"JSD({beta:g})")
    for kind, found in best.items():
        apart = max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(torch.load(folder / f"{kind}.pt"), right, strict=True)
        )
        cells = [
            *(name, kind, f"{found['process'] / GIB:.2f}", f"{found['tensors'] / GIB:.3f}"),
            f"{found['tensors'] / best['eager']['tensors']:.2f}",
            *(f"{found['seconds']:.2f}", f"{found['seconds'] / best['eager']['seconds']:.2f}", f"{apart:.0e}"),
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def in_process(kind: str, beta: float, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Measure in a process of its own, whose memory nobody has used before."""
    sizes = [f"--{key}={getattr(options, key)}" for key in ("vocabulary", "tokens", "width")]
    command = [sys.executable, "-m", "benchmarks.chunked_head", *sizes, "--worker", kind, str(beta), str(folder)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise SystemExit(f"{kind} failed ({done.returncode}): {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(kind: str, beta: float, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Peak memory of the first step and time of the second; gradients are left in the folder."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student, teacher = (torch.randn(options.tokens, options.width, device=device) for _ in range(2))
    heads = [nn.Linear(options.width, options.vocabulary, bias=False, device=device) for _ in range(2)]
    for head in heads:
        nn.init.normal_(head.weight, std=options.width**-0.5)
    heads[1].requires_grad_(False)
    student.requires_grad_()

    def step() -> None:
        student.grad = heads[0].weight.grad = None
        loss_of(kind, student, teacher, *heads, beta).backward()

    before = used(device)
    step()
    process = used(device) - before
    torch.save([student.grad.cpu(), heads[0].weight.grad.cpu()], folder / f"{kind}.pt")
    tensors = peak_bytes(step)
    start = clock(device)
    step()
    return {"process": process, "tensors": tensors, "seconds": clock(device) - start}


def loss_of(
    kind: str, student: torch.Tensor, teacher: torch.Tensor, ours: nn.Linear, theirs: nn.Linear, beta: float
) -> torch.Tensor:
    """The divergence in one of the forms."""
    if kind == "eager":
        with torch.no_grad():
            target = theirs(teacher)
        return jsd_loss(ours(student), target, beta=beta)
    if kind == "chunked":
        return chunked_head_loss(student, teacher, ours, theirs, beta=beta)
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    return LigerFusedLinearJSD(jsd_beta=beta)(student, ours.weight, teacher, theirs.weight, None)


def has_liger() -> bool:
    """Whether Liger's kernels can run here."""
    return torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None


def used(device: str) -> int:
    """The most memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def clock(device: str) -> float:
    """Seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def machine() -> str:
    """Where this runs."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
