"""What a file must say to be an export format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kd_lightning.deploy.inputs import Inputs

Runner = Callable[[Inputs], Tensor]
"""What the network takes to its answer, such as logits (B, classes)."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: What ``export.formats``, ``predict.backend`` and ``serve.backend`` call it.
        file: Name of the file (or folder) in the export folder.
        title: What people call it.
        write: Writes a net, given as many example inputs as ``export.calibration`` says, to a path.
        load: Gives what runs the file.
        use: Python that runs it, from the inputs to ``logits`` (numpy arrays), for the model card; may hold
            ``{file}``, ``{inputs}`` (by name) and ``{tensors}`` (a list), other braces doubled.
        exact: Whether its answers must be PyTorch's; others are judged by the accuracy they keep.
        takes: What it is for: ``image``, ``text``, or both.
        with_tokenizer: Whether it is a folder that the tokenizer of a text student lies in too.
        packages: What is installed to write and run it; their versions go into the record.
        runs_code: Whether reading a file can run what is in it: then it must be of this machine, or trusted.
        place: Where it stands in lists; those of one place by name.
    """

    name: str
    file: str
    title: str
    write: Callable[[nn.Module, Inputs, Path], None]
    load: Callable[[Path], Runner]
    use: str
    exact: bool = True
    takes: tuple[str, ...] = ("image", "text")
    with_tokenizer: bool = False
    packages: tuple[str, ...] = ()
    place: int = 100
    runs_code: bool = False
