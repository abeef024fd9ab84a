"""What a student can be exported to: how each file is written, and how it is run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kd_lightning.deploy.formats import executorch, huggingface, onnx, torch_export
from kd_lightning.deploy.inputs import Inputs

Runner = Callable[[Inputs], Tensor]
"""What the network takes to its answer, such as logits (B, classes)."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        file: Name of the file (or folder) in the export folder.
        title: What people call it.
        write: Writes a net, given as many example inputs as ``export.calibration`` says, to a path.
        load: Gives what runs the file.
        use: Python that runs it, from the inputs to ``logits`` (numpy arrays), for the model card.
        exact: Whether its answers must be PyTorch's; others are judged by the accuracy they keep.
        takes: What it is for: ``image``, ``text``, or both.
    """

    file: str
    title: str
    write: Callable[[nn.Module, Inputs, Path], None]
    load: Callable[[Path], Runner]
    use: str
    exact: bool = True
    takes: tuple[str, ...] = ("image", "text")


FORMATS: dict[str, Format] = {
    "onnx": Format("student.onnx", "ONNX", onnx.write, onnx.load, onnx.USE),
    "torch_export": Format("student.pt2", "torch.export", torch_export.write, torch_export.load, torch_export.USE),
    "onnx_int8": Format("student.int8.onnx", "ONNX int8", onnx.write_int8, onnx.load, onnx.USE_INT8, exact=False),
    "executorch": Format(
        "student.pte", "ExecuTorch", executorch.write, executorch.load, executorch.USE, takes=("image",)
    ),
    "executorch_int8": Format(
        "student.int8.pte",
        "ExecuTorch int8",
        executorch.write_int8,
        executorch.load,
        executorch.USE,
        exact=False,
        takes=("image",),
    ),
    "huggingface": Format(
        "huggingface", "Hugging Face", huggingface.write, huggingface.load, huggingface.USE, takes=("text",)
    ),
}


def known_format(name: str, setting: str) -> Format:
    """The format of this name.

    Args:
        name: Name in ``FORMATS``.
        setting: What the user set, for the error.

    Raises:
        ValueError: There is no such format; names near ones.
    """
    from kd_lightning.config.explain import near

    if name not in FORMATS:
        raise ValueError(f"{setting}: there is no format '{name}'. {near(name, list(FORMATS))}")
    return FORMATS[name]
