"""ExecuTorch (``.pte``) for phones: one picture at a time, on the XNNPACK backend; float32 and int8."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_lightning.core.quiet import quiet
from kd_lightning.deploy.formats.base import Format, Runner
from kd_lightning.deploy.inputs import Inputs, part, parts, tensors_of

_LOUD = ("torch.utils._pytree", "torchao", "executorch")

USE = """\
import torch
from executorch.runtime import Runtime

net = Runtime.get().load_program("{file}").load_method("forward")
logits = net.execute([torch.from_numpy(image)])[0].numpy()  # one picture at a time"""


def require() -> None:
    """Make sure that ExecuTorch is there.

    Raises:
        ModuleNotFoundError: It is not; says which extra brings it.
    """
    missing = against()
    if missing is not None:
        raise ModuleNotFoundError(f"{missing}.")


def against(net: nn.Module | None = None) -> str | None:
    """ExecuTorch is not everywhere."""
    if importlib.util.find_spec("executorch") is not None:
        return None
    return "the formats executorch and executorch_int8 need ExecuTorch: pip install 'kd-lightning[mobile]'"


def write(net: nn.Module, examples: Inputs, path: Path) -> None:
    """A program in float32; input (1, C, H, W) normalised, output (1, classes)."""
    require()
    _lower(torch.export.export(net, tensors_of(part(examples, 0, 1))), path)


def write_int8(net: nn.Module, examples: Inputs, path: Path) -> None:
    """A program quantised after training: int8 weights a channel, int8 activations a tensor.

    Args:
        net: The student, in eval mode.
        examples: Calibration inputs (N, C, H, W), normalised; not of the test split.
        path: Where to.
    """
    require()
    one = tensors_of(part(examples, 0, 1))
    with quiet(*_LOUD), torch.no_grad():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(torch.export.export(net, one).module(), quantizer)
        for each in parts(examples, 1):
            prepared(*tensors_of(each))
        converted = convert_pt2e(prepared)
    _lower(torch.export.export(converted, one), path)


def load(path: Path) -> Runner:
    """Runs a program, one picture after the other."""
    require()
    with quiet(*_LOUD):
        from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(path)).load_method("forward")

    def run(inputs: Inputs) -> Tensor:
        # The runtime reuses its output: each answer is copied before the next.
        return torch.cat([method.execute(list(tensors_of(one)))[0].clone() for one in parts(inputs, 1)])

    return run


def _lower(program: torch.export.ExportedProgram, path: Path) -> None:
    with quiet(*_LOUD):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(lowered.buffer)


EXECUTORCH = Format(
    name="executorch",
    file="student.pte",
    title="ExecuTorch",
    write=write,
    load=load,
    use=USE,
    takes=("image",),
    packages=("executorch",),
    place=4,
    against=against,
)
EXECUTORCH_INT8 = Format(
    name="executorch_int8",
    file="student.int8.pte",
    title="ExecuTorch int8",
    write=write_int8,
    load=load,
    use=USE,
    exact=False,
    takes=("image",),
    packages=("executorch", "torchao"),
    place=5,
    against=against,
)
