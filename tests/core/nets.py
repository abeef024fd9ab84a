"""Small nets and roles for the tests of the core."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.calls import TensorCall
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.terms import Objective, Stage, Term
from kd_lightning.losses.kd import KDLoss


class Net(nn.Module):
    """Convolution, batch norm, in-place ReLU, dropout, classifier."""

    def __init__(self, num_classes: int = 3, in_channels: int = 1, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.2)
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.relu(self.bn(self.conv(x))).mean((2, 3))))


def batch(size: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(size, 1, 6, 6, generator=generator),
        "target": torch.arange(size) % 3,
        "index": torch.arange(size),
    }


def ce() -> Term:
    return Term("ce", nn.CrossEntropyLoss(), {"input": "student.logits", "target": "batch.target"})


def kd(weight: Any = 1.0) -> Term:
    return Term("kd", KDLoss(), {"student": "student.logits", "teacher": "teacher.logits"}, weight)


def distiller(
    *terms: Term,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    stages: tuple[Stage, ...] = (),
    cls: type[Distiller] = Distiller,
    **kw: Any,
) -> Distiller:
    roles = [Role("student", student or Net(), TensorCall(), {"embedding": "fc:in"})]
    roles.append(Role("teacher", teacher or Net(width=6), TensorCall(), {"embedding": "fc:in"}, trainable=False))
    options = {"facts": {"num_classes": 3, "num_samples": 8}, "optimizer": functools.partial(torch.optim.SGD, lr=0.1)}
    return cls(Roles(roles), Objective(terms or (ce(), kd()), stages), batch(), **{**options, **kw})
