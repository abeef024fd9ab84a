"""``job=doctor``: what this machine has, and whether it fits together."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from kd_lightning.config.command import Command

# fmt: off
PACKAGES = (
    "kd-lightning", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "torchmetrics", "wandb",
    "timm", "transformers", "datasets", "onnx", "onnxruntime", "safetensors",
)
# fmt: on


def run(command: Command, folder: Path) -> None:
    """Print versions, devices, precision and disk."""
    table = Table("what", "found", title="kd_lightning doctor")
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        try:
            table.add_row(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(package, "[red]missing[/red]")
    table.add_row("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_cpu_features()}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        table.add_row(f"GPU {i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    if not torch.cuda.is_available():
        table.add_row("GPU", "none")
    table.add_row("disk free", f"{shutil.disk_usage(folder).free / 2**30:.0f} GiB at {folder}")
    Console().print(table)


def _cpu_features() -> str:
    """What decides whether bf16 pays on this CPU."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return capabilities
    native = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return f"{capabilities}{', native ' + ' '.join(native) if native else ''}"
