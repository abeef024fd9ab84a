"""ONNX, in float32 and quantised to int8 after training; run by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_lightning.deploy._quiet import quiet

USE = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
logits = session.run(["logits"], {{"image": image}})[0]"""


def write(net: nn.Module, examples: Tensor, path: Path) -> None:
    """ONNX with a dynamic batch; input ``image`` (B, C, H, W) normalised float32, output ``logits`` (B, classes)."""
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):
        torch.onnx.export(
            net,
            (examples[:2].contiguous(),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            external_data=False,
            verbose=False,
        )


def write_int8(net: nn.Module, examples: Tensor, path: Path) -> None:
    """ONNX quantised after training: int8 weights a channel, int8 activations a tensor (QDQ).

    The range of every activation is the smallest and largest value that the examples give it. Signed on both sides:
    what onnxruntime advises on x86 and ARM.

    Args:
        net: The student, in eval mode.
        examples: Calibration inputs (N, C, H, W), normalised; not of the test split.
        path: Where to.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, quiet("root", "onnxruntime"):
        plain, ready = Path(scratch) / "plain.onnx", Path(scratch) / "ready.onnx"
        write(net, examples, plain)
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(path),
            _Calibration(examples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Runs an ONNX file on the CPU, with as many threads as PyTorch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


class _Calibration:
    """Calibration inputs as onnxruntime asks for them, in batches."""

    def __init__(self, examples: Tensor, batch: int = 32) -> None:
        self._batches: Iterator[Tensor] = iter(torch.split(examples, batch))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.numpy()}
