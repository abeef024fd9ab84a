"""The deployable student: exported without the teacher, checked against PyTorch on test data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from kd_lightning.data.module import KDDataModule
from kd_lightning.jobs._arm import FittedArm
from kd_lightning.runs import write_json

log = logging.getLogger("kd_lightning")

Runner = Callable[[Tensor], Tensor]


def export_onnx(net: nn.Module, example: Tensor, path: Path) -> None:
    """ONNX with a dynamic batch; input ``image`` (B, C, H, W) normalised float32, output ``logits`` (B, C)."""
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.onnx.export(
        net,
        (example,),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        external_data=False,
        verbose=False,
    )


def export_torch(net: nn.Module, example: Tensor, path: Path) -> None:
    """``torch.export`` program with a dynamic batch."""
    program = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)


def onnx_runner(path: Path) -> Runner:
    """Runs an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def torch_runner(path: Path) -> Runner:
    """Runs a ``torch.export`` program."""
    module = torch.export.load(path).module()

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(image)
        return logits

    return run


# Format -> (file, writer, runner).
FORMATS: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Runner]]] = {
    "onnx": ("student.onnx", export_onnx, onnx_runner),
    "torch_export": ("student.pt2", export_torch, torch_runner),
}


def export_student(arm: FittedArm, data: KDDataModule, folder: Path, cfg: DictConfig) -> dict[str, float]:
    """Write weights, preprocessing and every format; each is checked on test data before it counts.

    Args:
        arm: The finished student.
        data: For preprocessing and the check.
        folder: Where to.
        cfg: ``export.formats`` and ``export.tolerance``.

    Returns:
        Format -> largest difference of logits, relative to the largest logit.

    Raises:
        ValueError: For an unknown format, or one whose answers differ from PyTorch's.
    """
    unknown = set(cfg.export.formats) - set(FORMATS)
    if unknown:
        raise ValueError(f"export.formats: unknown {sorted(unknown)}; there are {', '.join(FORMATS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    net = arm.net.cpu().eval()
    shutil.copyfile(arm.folder / "student.safetensors", folder / "student.safetensors")
    shutil.copyfile(arm.folder / "config.yaml", folder / "config.yaml")
    batches = [data.ready(raw)["image"] for raw in data.loader("test", whole=True)]
    differences: dict[str, float] = {}
    for name in cfg.export.formats:
        file, write, load = FORMATS[name]
        write(net, batches[0][:2].contiguous(), folder / file)
        differences[name] = _check(net, load(folder / file), batches, name, cfg.export.tolerance)
        log.info(f"exported {folder / file}: largest relative difference from PyTorch {differences[name]:.1e}")
    write_json(
        folder / "preprocessing.json",
        {**data.preprocessing(), "model": cfg.student.name, "checked": differences},
    )
    return differences


def _check(net: nn.Module, runner: Runner, batches: list[Tensor], name: str, tolerance: float) -> float:
    """Largest difference from PyTorch over the batches, relative to the largest logit; also at a batch of one."""
    difference, largest = 0.0, 1e-12
    with torch.no_grad():
        for batch in [batches[0][:1], *batches]:
            expected = net(batch)
            difference = max(difference, float((runner(batch.contiguous()) - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
    relative = difference / largest
    if not relative <= tolerance:
        raise ValueError(
            f"The {name} export differs from PyTorch by {relative:.2e} of the largest logit (export.tolerance ="
            f" {tolerance:.0e}): not usable. Raise the tolerance only if you know why."
        )
    return relative
