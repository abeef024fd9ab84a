"""The same job end to end with torchdistill and with kd_lightning: images a second and final accuracy.

    make bench-peers          or          python -m benchmarks.peers [--tiny] [--epochs 15] [--rounds 3]

Data: scikit-learn's digits, enlarged to CIFAR's shape (32x32, three channels). Both get the same arrays, splits,
teacher, nets, optimiser, schedule, batch and number of epochs; every round is another seed. torchdistill is installed
from PyPI into an environment of its own (outputs/bench/peers), with the same torch. Seconds are those of the training
loop with its validations and checkpoints, without imports and reading of data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.clock import Times, machine, table, write

ROOT = Path(__file__).resolve().parents[1]
PEER, LIVE, CACHED = "torchdistill", "kd_lightning, live teacher", "kd_lightning, teacher.cache=read"
COMPILED = "kd_lightning, live teacher, compile=true, after the first epoch"
# Digits must not be mirrored: crops only.
AUGMENT = "data.augment=[{_target_:kd_lightning.data.images.augment.RandomCrop,padding:4}]"

CONFIG = """
teacher: {teacher}
student: {student}
teacher_weights: {weights}
num_classes: 10
seed: {seed}
datasets:
{datasets}
train:
  num_epochs: {epochs}
  log_freq: 50
  train_data_loader:
    dataset_id: train
    sampler: {{class_or_func: !import_get {{key: torch.utils.data.RandomSampler}}}}
    kwargs: {{batch_size: 64, num_workers: {workers}, drop_last: true, persistent_workers: {persistent}}}
    requires_supp: true
  val_data_loader:
    dataset_id: val
    sampler: {{class_or_func: !import_get {{key: torch.utils.data.SequentialSampler}}}}
    kwargs: {{batch_size: 256, num_workers: 0}}
  teacher: {{forward_proc: forward_batch_only, requires_grad: false}}
  student: {{forward_proc: forward_batch_only, requires_grad: true}}
  optimizer: {{key: SGD, kwargs: {{lr: 0.05, momentum: 0.9, weight_decay: 0.0005}}}}
  scheduler: {{key: CosineAnnealingLR, kwargs: {{T_max: {epochs}}}}}
  criterion:
    key: WeightedSumLoss
    kwargs:
      sub_terms:
        kd:
          criterion:
            key: KDLoss
            kwargs:
              student_module_path: '.'
              student_module_io: output
              teacher_module_path: '.'
              teacher_module_io: output
              temperature: 4.0
              alpha: 0.1
              reduction: batchmean
          weight: 1.0
test:
  test_data_loader:
    dataset_id: test
    sampler: {{class_or_func: !import_get {{key: torch.utils.data.SequentialSampler}}}}
    kwargs: {{batch_size: 256, num_workers: 0}}
"""

DATASET = """  {split}: !import_call
    key: torchdistill_job.ArrayImages
    init:
      kwargs:
        path: {path}
        split: {split}
        transform: !import_call
          key: torchvision.transforms.Compose
          init:
            kwargs:
              transforms: [{transforms}]
"""


def _call(name: str, kwargs: str = "{}") -> str:
    return f"!import_call {{key: torchvision.transforms.{name}, init: {{kwargs: {kwargs}}}}}"


def write_data(folder: Path, samples: int) -> tuple[Path, int]:
    """Digits in CIFAR's shape; the file and the number of training samples."""
    from kd_lightning.data.images.sources.digits import Digits

    arrays = Digits().load()
    assert isinstance(arrays.inputs, torch.Tensor)
    order = torch.randperm(len(arrays.targets), generator=torch.Generator().manual_seed(0))[:samples]
    images = F.interpolate(arrays.inputs[order].float(), 32, mode="bilinear", align_corners=False).round()
    images = images.clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).numpy()
    targets = arrays.targets[order].numpy()
    train, val = int(0.7 * samples) // 64 * 64, int(0.8 * samples)
    parts = {"train": slice(0, train), "val": slice(train, val), "test": slice(val, samples)}
    content = {f"{n}_{k}": a[p] for n, p in parts.items() for k, a in (("x", images), ("y", targets))}
    path = folder / "digits32.npz"
    np.savez(path, **content)
    return path, train


def peer_python(folder: Path) -> Path:
    """The interpreter of an environment with torchdistill; made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        torch_pins = [f"torch=={torch.__version__.split('+')[0]}", "torchvision", "safetensors"]
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", str(python), "torchdistill", *torch_pins], check=True
        )
    return python


def run_peer(python: Path, folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """One training with torchdistill."""
    weak = [_call("RandomCrop", "{size: 32, padding: 4}")]
    plain = [_call("ToTensor"), _call("Normalize", "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}")]
    datasets = "".join(
        DATASET.format(split=s, path=settings["data"], transforms=", ".join([*(weak if s == "train" else []), *plain]))
        for s in ("train", "val", "test")
    )
    config, result = folder / "torchdistill.yaml", folder / "torchdistill.json"
    persistent = str(settings["workers"] > 0).lower()
    config.write_text(CONFIG.format(datasets=datasets, persistent=persistent, **settings))
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'benchmarks'}"}
    job = ROOT / "benchmarks" / "torchdistill_job.py"
    subprocess.run([str(python), str(job), str(config), str(result)], check=True, env=env, cwd=folder)
    return json.loads(result.read_text())


def run_product(folder: Path, *arguments: str) -> dict[str, float]:
    """``python -m kd_lightning``; seconds of the whole command, of the training, and accuracy."""
    before = set(folder.glob("outputs/*/*/arm.json"))
    started = time.perf_counter()
    clock = folder / "fit.json"
    timer = f"+callbacks.clock={{_target_:benchmarks.product.FitClock,path:{clock}}}"
    command = [sys.executable, "-m", "kd_lightning", timer, *arguments]
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=env)
    seconds = time.perf_counter() - started
    made = set(folder.glob("outputs/*/*/arm.json")) - before
    if not made:
        return {"seconds": seconds}
    path = made.pop()
    record = json.loads(path.read_text())
    return {
        "seconds": seconds,
        **json.loads(clock.read_text()),
        "top1": record["test"]["last"]["top1"],
        "folder": str(path.parent),  # type: ignore[dict-item]
    }


def compare(args: argparse.Namespace) -> str:
    """Train with both, in turns."""
    work = Path(args.folder).resolve()
    work.mkdir(parents=True, exist_ok=True)
    path, samples = write_data(work, args.samples)
    common = [
        "data=tensors", f"data.root={work}", f"data.source.path={path.name}", "data.num_classes=10", AUGMENT,
        "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]", f"trainer={args.trainer}", "name=peers",
        "trainer.enable_progress_bar=false", "select=last",
    ]  # fmt: skip
    trained = run_product(work, "job=train", "method=ce", f"model@student={args.teacher}",
                          f"trainer.max_epochs={args.teacher_epochs}", *common)  # fmt: skip
    from safetensors.torch import load_file

    torch.save(load_file(Path(str(trained["folder"])) / "student.safetensors"), work / "teacher.pt")
    own = [*common, f"trainer.max_epochs={args.epochs}", f"model@teacher={args.teacher}",
           f"teacher.checkpoint={trained['folder']}", f"model@student={args.student}", "method=kd"]  # fmt: skip
    stored = run_product(work, "job=cache", "teacher.views=all", *own)
    python = None if args.without_peer else peer_python(work / "peers")
    times, accuracy, compiling = Times(), {}, []
    for seed in range(args.rounds):
        results = {}
        if python is not None:
            settings = {"data": path, "weights": work / "teacher.pt", "seed": seed, "epochs": args.epochs,
                        "workers": args.workers, "teacher": args.teacher,
                        "student": args.student}  # fmt: skip
            results[PEER] = run_peer(python, work, settings)
        results[LIVE] = run_product(work, "job=train", "teacher.cache=off", f"seed={seed}", *own)
        if args.epochs > 1:
            compiled = run_product(work, "job=train", "teacher.cache=off", "compile=true", f"seed={seed}", *own)
            compiling.append(compiled[f"first_{args.clock}"])
            later = (compiled[args.clock] - compiling[-1]) * args.epochs / (args.epochs - 1)
            results[COMPILED] = {**compiled, args.clock: later}
        cached = ["job=train", "teacher.cache=read", "teacher.views=all", f"seed={seed}"]
        results[CACHED] = run_product(work, *cached, *own)
        for name, result in results.items():
            times.add(name, result[args.clock])
            accuracy.setdefault(name, []).append(result["top1"])
    rows = []
    for name in times.rounds:
        top1 = accuracy[name]
        ratio = f"{times.ratio(PEER, name):.2f}x" if PEER in times.rounds else "not measured"
        rate = samples * args.epochs / times.median(name)
        rows.append([name, f"{rate:.0f}", ratio, f"{np.mean(top1):.4f}", f"{min(top1):.4f} to {max(top1):.4f}"])
    note = (
        f"`python -m benchmarks.peers`, {args.teacher} -> {args.student}, batch 64, {samples} training images of"
        f" 3x32x32, {args.epochs} epochs, {args.rounds} seeds,"
        f" {args.clock} clock, {args.workers} loader processes for torchdistill; teacher {trained['top1']:.4f}."
        f" Machine: {machine()}."
        f" Writing the cache took {stored['seconds']:.0f} s, start of the command included; later trainings share it."
        + (
            f" The first epoch with compile=true took {max(compiling):.0f} s at the first"
            f" time and {min(compiling):.0f} s with the compiled code at hand."
            if compiling
            else ""
        )
    )
    head = ["", "images/s", "times torchdistill", "top-1, mean", "over seeds"]
    return table(f"End to end against torchdistill: {args.teacher} -> {args.student}", head, rows, note)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="outputs/bench", help="where everything is written")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--samples", type=int, default=1797)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--teacher-epochs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3, help="seeds")
    parser.add_argument("--workers", type=int, default=2, help="processes of torchdistill's DataLoader")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: CPU seconds, one thread each and no workers, for a machine that is also used by others",
    )  # fmt: skip
    parser.add_argument("--trainer", default="auto", help="the product's trainer configuration")
    parser.add_argument("--write", type=Path, help="put the table into this page, between its marks")
    parser.add_argument("--without-peer", action="store_true", help="do not install or run torchdistill")
    parser.add_argument("--tiny", action="store_true", help="to the end in a minute; the numbers mean nothing")
    args = parser.parse_args()
    if args.tiny:
        args.teacher = args.student = "resnet8"
        args.samples, args.epochs, args.teacher_epochs, args.rounds, args.workers = 160, 1, 1, 1, 0
    if args.clock == "cpu":
        args.workers = 0
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
    text = compare(args)
    if args.write is not None:
        write(args.write, "peers", text)


if __name__ == "__main__":
    main()
