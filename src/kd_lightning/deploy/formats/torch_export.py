"""``torch.export``: the net as a graph that PyTorch runs without the code it was written in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kd_lightning.core.quiet import quiet
from kd_lightning.deploy.formats.base import Format, Runner
from kd_lightning.deploy.inputs import Inputs, dynamic_shapes, part, tensors_of

USE = """\
import torch

net = torch.export.load("{file}").module()
logits = net(*map(torch.from_numpy, {tensors})).detach().numpy()"""


def write(net: nn.Module, examples: Inputs, path: Path) -> None:
    """A program with a dynamic batch (and length, of texts)."""
    tensors = tensors_of(part(examples, 0, 2))
    with quiet():
        torch.export.save(torch.export.export(net, tensors, dynamic_shapes=dynamic_shapes(examples)), path)


def load(path: Path) -> Runner:
    """Runs a program."""
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(*tensors_of(inputs))
        return logits

    return run


TORCH_EXPORT = Format(
    name="torch_export",
    file="student.pt2",
    title="torch.export",
    write=write,
    load=load,
    use=USE,
    packages=("torch",),
    place=2,
    runs_code=True,
)
