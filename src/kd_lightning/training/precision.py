"""``trainer.precision=auto``: bfloat16 and channels-last where a few timed steps gain by them."""

from __future__ import annotations

import copy
import json
import logging
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kd_lightning.config.identity import of_step
from kd_lightning.config.schema import Config, Trainer
from kd_lightning.config.values import plain
from kd_lightning.core.batch import first_rows
from kd_lightning.core.device import training_device
from kd_lightning.files.runs import digest, write_json

log = logging.getLogger("kd_lightning")

AUTO = "auto"
FULL, HALF = "32-true", "bf16-mixed"
# Gains below these are not worth another layout or other numbers: noise of the timing, and results to compare with.
LAYOUT_GAIN, HALF_GAIN = 1.05, 1.15
# Seconds for which one candidate is timed after its first step, and samples that are enough for a large net.
BUDGET, FEW = 0.15, 16
# Where the decisions of this machine are kept, beside the teachers: all trainings that are compared, and one that is
# resumed, have the same precision.
MEMORY = "precision.json"


def decide_precision(settings: Config, student: nn.Module, example: Mapping[str, Any], output: str) -> Trainer:
    """The trainer's options, with ``precision=auto`` replaced by what is best here; says why.

    Args:
        settings: Of the training.
        student: Its net; a copy is timed.
        example: A training batch on the CPU.
        output: The signal that is its answer.
    """
    trainer = settings.trainer
    if trainer.precision != AUTO:
        return trainer
    device = training_device(trainer.accelerator, trainer.devices)
    if trainer.devices != 1 or trainer.num_nodes != 1:
        # Processes that time for themselves may disagree.
        half = device.type == "cuda" and native_bf16(device)
        return _decided(trainer, HALF if half else FULL, trainer.channels_last or half, "several devices: not timed")
    memory = Path(settings.teacher.store) / MEMORY
    known = _read(memory)
    key = _key(settings, device, example)
    if key not in known:
        times = time_candidates(settings, student, example, device, output)
        chosen = choose(times)
        known = {**_read(memory), key: {"precision": chosen[0], "channels_last": chosen[1], "why": _why(times)}}
        write_json(memory, known)
    decided = known[key]
    return _decided(trainer, decided["precision"], decided["channels_last"], decided["why"])


def native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 by itself: Ampere and later, AVX512-BF16, AMX, bf16 of ARM."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def time_candidates(
    settings: Config, student: nn.Module, example: Mapping[str, Any], device: torch.device, output: str
) -> dict[tuple[str, bool], float]:
    """Seconds of a training step of the student under every (precision, channels-last) that is possible."""
    image = example.get("image")
    layouts = [True] if settings.trainer.channels_last else [False]
    if isinstance(image, Tensor) and image.dim() == 4 and any(isinstance(m, nn.Conv2d) for m in student.modules()):
        layouts = [True] if settings.trainer.channels_last else [False, True]
    candidates = [(FULL, layout) for layout in layouts]
    if native_bf16(device):
        candidates += [(HALF, layout) for layout in layouts[-1:]]
    if len(candidates) == 1:
        return {candidates[0]: 0.0}
    call = instantiate(settings.student.call)
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in example.items()}
    with torch.random.fork_rng():
        # Twice round: what the first one pays for (memory, kernels) is nobody's fault.
        rounds = [{c: _seconds(student, call, _few(batch), c, device, output) for c in candidates} for _ in range(2)]
    return {c: min(r[c] for r in rounds) for c in candidates}


def choose(times: Mapping[tuple[str, bool], float]) -> tuple[str, bool]:
    """The fastest, where its gain is worth it; ``32-true`` as it is otherwise."""
    best = next(iter(times))
    for candidate, seconds in times.items():
        needed = HALF_GAIN if candidate[0] != best[0] else LAYOUT_GAIN
        if seconds * needed < times[best]:
            best = candidate
    return best


def _seconds(
    student: nn.Module,
    call: Any,
    batch: Mapping[str, Any],
    candidate: tuple[str, bool],
    device: torch.device,
    output: str,
) -> float:
    """Median seconds of forward and backward on a copy of the net."""
    precision, channels_last = candidate
    net = copy.deepcopy(student).to(device).train()
    if channels_last:
        net.to(memory_format=torch.channels_last)
        image = batch["image"]
        batch = {**batch, "image": image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image}

    def step() -> float:
        started = time.perf_counter()
        net.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == HALF):
            answer = call(net, batch)[output]
            loss = answer.float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    step()
    times = [step()]
    while sum(times) < BUDGET and len(times) < 20:
        times.append(step())
    return statistics.median(times)


def _few(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch, or its first samples where it is large: a question of a second, not of a minute."""
    tensor = batch.get("image", batch.get("input_ids"))
    large = 200_000 if "image" in batch else 1000  # numbers of images, tokens of texts
    if not isinstance(tensor, Tensor) or tensor.numel() < large:
        return dict(batch)
    return first_rows(batch, FEW)


def _why(times: Mapping[tuple[str, bool], float]) -> str:
    if len(times) == 1:
        return "this hardware has no bfloat16"
    return "a student step takes " + ", ".join(f"{1e3 * s:.1f} ms in {_name(*c)}" for c, s in times.items())


def _name(precision: str, channels_last: bool) -> str:
    return f"{precision} channels-last" if channels_last else precision


def _decided(trainer: Trainer, precision: str, channels_last: bool, why: str) -> Trainer:
    log.info(f"precision: {_name(precision, channels_last)} ({why})")
    return replace(trainer, precision=precision, channels_last=bool(channels_last))


def _key(settings: Config, device: torch.device, example: Mapping[str, Any]) -> str:
    """Net, batch and machine; not the method, whose arms are compared."""
    shapes = {k: list(v.shape) for k, v in example.items() if isinstance(v, Tensor)}
    shapes = {k: v for k, v in shapes.items() if k in ("image", "input_ids")}
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} {_cpu()}"
    net, channels_last = of_step(plain(settings))
    return digest([net, shapes, channels_last, machine, torch.get_num_threads(), torch.__version__])


def _cpu() -> str:
    return str(torch.cpu.get_capabilities().get("cpu_name", ""))


def _read(memory: Path) -> dict[str, Any]:
    try:
        content = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
