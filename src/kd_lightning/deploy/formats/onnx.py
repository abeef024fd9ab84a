"""ONNX, in float32 and quantised to int8 after training; run by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_lightning.core.quiet import quiet
from kd_lightning.deploy.formats.base import Format, Runner
from kd_lightning.deploy.inputs import Inputs, dynamic_shapes, names_of, part, tensors_of

USE = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
logits = session.run(["logits"], {inputs})[0]"""

# Without VNNI (x86 with AVX2 or AVX512 alone) onnxruntime's fast product of int8 saturates: answers are off by a third.
PRECISE = ("session.x64quantprecision", "1")
USE_INT8 = """\
import onnxruntime

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # right on processors without VNNI too
session = onnxruntime.InferenceSession("{file}", options)
logits = session.run(["logits"], {inputs})[0]"""


def write(net: nn.Module, examples: Inputs, path: Path) -> None:
    """ONNX with a dynamic batch (and length, of texts); inputs are named as in ``deploy.inputs``, output ``logits``."""
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):
        torch.onnx.export(
            net,
            tensors_of(part(examples, 0, 2)),
            str(path),
            input_names=names_of(examples),
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=dynamic_shapes(examples),
            external_data=False,
            verbose=False,
        )


def write_int8(net: nn.Module, examples: Inputs, path: Path) -> None:
    """ONNX quantised after training: int8 weights a channel, int8 activations a tensor (QDQ).

    The range of every activation is the smallest and largest value that the examples give it. Signed on both sides:
    what onnxruntime advises on x86 and ARM. Of texts only the matrix products are quantised, and the range of their
    inputs is found for each batch: onnxruntime's advice for transformers.

    Args:
        net: The student, in eval mode.
        examples: Calibration inputs, as the network takes them; not of the test split.
        path: Where to.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, quiet("root", "onnxruntime"):
        plain, ready = Path(scratch) / "plain.onnx", Path(scratch) / "ready.onnx"
        write(net, examples, plain)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        if not isinstance(examples, Tensor):
            quantize_dynamic(str(ready), str(path), ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)
            return
        _own_weights(ready)
        quantize_static(
            str(ready),
            str(path),
            _Calibration(examples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


def _own_weights(path: Path) -> None:
    """Give every node constants of its own: the exporter shares equal ones, over which onnxruntime stumbles in int8."""
    import onnx

    model = onnx.load(path)
    weights, taken = {one.name: one for one in model.graph.initializer}, set[str]()
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name in weights and name in taken:
                node.input[i] = f"{name}.{len(model.graph.initializer)}"
                model.graph.initializer.add().CopyFrom(weights[name])
                model.graph.initializer[-1].name = node.input[i]
            taken.add(name)
    onnx.save(model, path)


def load(path: Path) -> Runner:
    """Runs an ONNX file on the CPU, with as many threads as PyTorch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(*PRECISE)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}  # a net may have no use for a mask

    def run(inputs: Inputs) -> Tensor:
        named = zip(names_of(inputs), tensors_of(inputs), strict=True)
        feed = {name: tensor.numpy() for name, tensor in named if name in taken}
        return torch.from_numpy(session.run(["logits"], feed)[0])

    return run


class _Calibration:
    """Calibration inputs as onnxruntime asks for them, in batches."""

    def __init__(self, examples: Tensor, batch: int = 32) -> None:
        self._batches: Iterator[Tensor] = iter(torch.split(examples, batch))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.numpy()}


ONNX = Format(
    name="onnx",
    file="student.onnx",
    title="ONNX",
    write=write,
    load=load,
    use=USE,
    packages=("onnx", "onnxruntime"),
    place=1,
)
ONNX_INT8 = Format(
    name="onnx_int8",
    file="student.int8.onnx",
    title="ONNX int8",
    write=write_int8,
    load=load,
    use=USE_INT8,
    exact=False,
    packages=("onnx", "onnxruntime"),
    place=3,
)
