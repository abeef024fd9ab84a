"""What the shared tester needs to know of a loss; the specs live in tests/losses/spec_*.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class Spec:
    """One loss under the shared contract.

    Attributes:
        name: File name in losses/ (plus a suffix for a second configuration).
        make: Builds the module with representative numbers.
        inputs: (batch size, generator) -> arguments of ``forward`` by name: tensors, lists, modules, numbers.
        student: Names of the arguments through which the gradient must flow.
        teacher: Names of the arguments that must receive no gradient.
        equal: Given the inputs, returns inputs at which the loss must be 0; None where no such point exists.
        mask: Given the inputs, returns them fully masked; None where nothing can be masked.
        batch_of_one: The formula is defined for a single sample.
        permutation: Reordering the batch does not change the value.
        compile: Included in the torch.compile check (choose few; it is slow).
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], dict[str, Any]]
    student: tuple[str, ...] = ("student",)
    teacher: tuple[str, ...] = ("teacher",)
    equal: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    mask: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    batch_of_one: bool = True
    permutation: bool = True
    compile: bool = False


SPECS: list[Spec] = []


def spec(**fields: Any) -> None:
    """Register a spec."""
    SPECS.append(Spec(**fields))


def copy_teacher(inputs: dict[str, Any]) -> dict[str, Any]:
    """Student equal to teacher, for ``equal``."""
    return {**inputs, "student": inputs["teacher"]}
