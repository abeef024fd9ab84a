"""Golden cases: reference values recorded from the authors' code (tests/goldens/INDEX.md).

A mapping says how one method file's cases are fed to our loss. It returns the loss, or the loss and our parameters
under the reference's parameter names. Mappings live in tests/losses/golden_*.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(os.environ.get("KD_GOLDENS", Path(__file__).parents[1] / "goldens"))


@dataclass
class Case:
    """One recorded case; ``inputs`` are leaf tensors, the student's with ``requires_grad``."""

    name: str
    inputs: dict[str, Tensor]
    hparams: dict[str, Any]
    state: dict[str, Tensor]
    extra: dict[str, Any]
    dtype: torch.dtype

    def list(self, prefix: str) -> list[Tensor]:
        """The flattened list ``prefix.0, prefix.1, ...``."""
        names = sorted((n for n in self.inputs if n.startswith(f"{prefix}.")), key=lambda n: int(n.rpartition(".")[2]))
        return [self.inputs[n] for n in names]


Mapping = Callable[[Case], Tensor | tuple[Tensor, dict[str, Tensor]]]
MAPPINGS: dict[str, Mapping] = {}


def golden(*methods: str) -> Callable[[Mapping], Mapping]:
    """Register a mapping for one or more method files (names without .pt)."""

    def register(mapping: Mapping) -> Mapping:
        for method in methods:
            assert method not in MAPPINGS, f"two mappings for {method}"
            MAPPINGS[method] = mapping
        return mapping

    return register


def load(path: Path) -> list[dict[str, Any]]:
    """The cases of one file."""
    return torch.load(path, weights_only=True)["cases"]


def check(method: str, raw: dict[str, Any]) -> None:
    """Run one case and compare value and gradients; where the reference is not finite, ours must be."""
    f64 = raw.get("f64")
    expected = f64 if f64 and f64["finite"] else raw
    dtype = torch.float64 if expected is f64 else getattr(torch, raw["dtype"])

    def prepare(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(dtype) if value.is_floating_point() else value.clone()
        return value.clone().requires_grad_(name in raw["student_inputs"])

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    case = Case(
        name=raw["name"],
        inputs={n: prepare(n, v) for n, v in raw["inputs"].items()},
        hparams=raw["hparams"],
        state={n: cast(v) for n, v in raw["state"].items()},
        extra=raw["extra"],
        dtype=dtype,
    )
    result = MAPPINGS[method](case)
    loss, parameters = result if isinstance(result, tuple) else (result, {})
    if loss.requires_grad:
        loss.sum().backward()
    gradients = {n: case.inputs[n].grad for n in raw["student_inputs"]}
    gradients |= {f"param:{n}": p.grad for n, p in parameters.items()}
    gradients = {n: torch.zeros(()) if g is None else g for n, g in gradients.items()}

    assert torch.isfinite(loss).all(), f"loss is {loss}"
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), f"gradient of {name} is not finite"
    tolerance = raw["tol"]
    if expected is f64 or raw["finite_loss"]:
        torch.testing.assert_close(loss.detach().reshape(-1), expected["loss"].reshape(-1).to(loss.dtype), **tolerance)
    if expected is f64 or raw["finite_grads"]:
        for name, reference in expected["grads"].items():
            assert name in gradients, f"the mapping returns no parameter for {name}"
            ours = gradients[name].to(reference.dtype).expand_as(reference)
            torch.testing.assert_close(ours, reference, **tolerance, msg=lambda m, n=name: f"gradient of {n}: {m}")
