"""``torch.export``: the net as a graph that PyTorch runs without the code it was written in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

USE = """\
import torch

net = torch.export.load("{file}").module()
logits = net(torch.from_numpy(image)).detach().numpy()"""


def write(net: nn.Module, examples: Tensor, path: Path) -> None:
    """A program with a dynamic batch."""
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net, (examples[:2].contiguous(),), dynamic_shapes=shapes), path)


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Runs a program."""
    module = torch.export.load(path).module()

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(image)
        return logits

    return run
