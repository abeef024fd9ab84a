"""What holds for every loss, checked over the specs of tests/losses/spec_*.py.

Where a check permutes the batch, a tensor counts as batched when its first dimension is a multiple of BATCH: stacked
views (2B, ...) are permuted alike in each view. Keep other first dimensions away from multiples of 6.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_lightning.losses
from tests.losses.contract import SPECS, Spec

for path in sorted(Path(__file__).parent.glob("spec_*.py")):
    importlib.import_module(f"tests.losses.{path.stem}")

BATCH = 6
FILES = sorted(p.stem for p in Path(kd_lightning.losses.__file__).parent.glob("*.py") if not p.stem.startswith("_"))


def every(condition: Callable[[Spec], bool] = lambda spec: True):
    """Parametrise over the specs that fulfil a condition."""
    return pytest.mark.parametrize("spec", [pytest.param(s, id=s.name) for s in SPECS if condition(s)])


def tree(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply to every tensor, also inside lists."""
    if isinstance(value, (list, tuple)):
        return [tree(function, v) for v in value]
    return function(value) if isinstance(value, Tensor) else value


def floats(inputs: dict[str, Any], names: tuple[str, ...]) -> list[Tensor]:
    """The floating tensors of the named arguments."""
    found: list[Tensor] = []
    for name in names:
        tree(lambda x: found.append(x) or x if x.is_floating_point() else x, inputs.get(name))
    return found


def draw(spec: Spec, batch: int = BATCH) -> dict[str, Any]:
    """The same example inputs at every call."""
    return spec.inputs(batch, torch.Generator().manual_seed(7))


def leaves(spec: Spec, inputs: dict[str, Any], scale: float = 1.0, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Fresh leaves; the student's and the teacher's floating tensors are scaled and require a gradient."""

    def leaf(name: str, x: Tensor) -> Tensor:
        x = x.detach().clone()
        if x.is_floating_point():
            x = x.to(dtype or x.dtype)
            if name in spec.student + spec.teacher:
                x = (x * scale).requires_grad_()
        return x

    def cast(value: Any) -> Any:
        return copy.deepcopy(value).to(dtype) if isinstance(value, nn.Module) and dtype == torch.float64 else value

    return {name: cast(tree(lambda x, n=name: leaf(n, x), value)) for name, value in inputs.items()}


def built(spec: Spec, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module as a run has it: made, then built once from example tensors of a full batch."""
    torch.manual_seed(seed)
    module = spec.make()
    if hasattr(module, "build"):
        with torch.no_grad():
            module.build(**tree_inputs(draw(spec)))
    return module.to(dtype)


def tree_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: tree(lambda x: x.detach(), value) for name, value in inputs.items()}


def call(module: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """One forward under a fixed seed; a copy, so that a memory inside is as it was."""
    torch.manual_seed(3)
    return copy.deepcopy(module)(**inputs)


def gradients(spec: Spec, loss: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
    """Gradients of the student's tensors; empty where the value is constant."""
    tensors = floats(inputs, spec.student)
    if not loss.requires_grad:
        return []
    return [g for g in torch.autograd.grad(loss, tensors, allow_unused=True) if g is not None]


def assert_finite(spec: Spec, module: nn.Module, inputs: dict[str, Any]) -> Tensor:
    loss = call(module, inputs)
    assert torch.isfinite(loss).all(), f"loss is {loss}"
    for gradient in gradients(spec, loss, inputs):
        assert torch.isfinite(gradient).all(), "a gradient of the student is not finite"
    return loss


def agreeing(spec: Spec, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Student equal to teacher wherever the shapes allow; None where they never do."""
    if spec.equal is not None:
        return spec.equal(inputs)
    found = {}
    for student, teacher in zip(spec.student, spec.teacher, strict=False):
        shapes = [[x.shape for x in floats(inputs, (n,))] for n in (student, teacher)]
        if shapes[0] and shapes[0] == shapes[1]:
            found[student] = inputs[teacher]
    return {**inputs, **found} if found else None


@pytest.mark.parametrize("name", FILES)
def test_every_loss_has_a_spec(name: str):
    assert any(s.name == name or s.name.startswith(f"{name}_") for s in SPECS), (
        f"losses/{name}.py has no spec in tests/losses/spec_*.py"
    )


@pytest.mark.parametrize("name", FILES)
def test_every_public_function_is_documented(name: str):
    module = importlib.import_module(f"kd_lightning.losses.{name}")
    functions = [
        f for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__ and n[0] != "_"
    ]
    assert functions, f"losses/{name}.py has no public function"
    for function in functions:
        for section in ("References:", "Args:"):
            assert section in (function.__doc__ or ""), f"{name}.{function.__name__} has no section {section}"


def test_spec_names_are_unique():
    names = [s.name for s in SPECS]
    assert len(names) == len(set(names)), sorted(n for n in set(names) if names.count(n) > 1)


@every()
def test_scalar_and_finite(spec: Spec):
    loss = assert_finite(spec, built(spec), leaves(spec, draw(spec)))
    assert loss.shape == (), f"shape {tuple(loss.shape)}"
    assert loss.dtype == torch.float32


@every()
def test_finite_on_inputs_times_100(spec: Spec):
    assert_finite(spec, built(spec), leaves(spec, draw(spec), scale=100.0))


@every(lambda s: agreeing(s, draw(s)) is not None)
def test_finite_where_student_equals_teacher(spec: Spec):
    assert_finite(spec, built(spec), leaves(spec, agreeing(spec, draw(spec))))


@every(lambda s: s.batch_of_one)
def test_finite_on_a_batch_of_one(spec: Spec):
    assert_finite(spec, built(spec), leaves(spec, draw(spec, batch=1)))


@every(lambda s: s.mask is not None)
def test_fully_masked_is_zero(spec: Spec):
    loss = assert_finite(spec, built(spec), leaves(spec, spec.mask(draw(spec))))
    assert loss.item() == 0.0


@every(lambda s: s.equal is not None)
def test_zero_at_equality(spec: Spec):
    inputs = leaves(spec, spec.equal(draw(spec)), dtype=torch.float64)
    loss = call(built(spec, dtype=torch.float64), inputs)
    assert abs(loss.item()) < 1e-6


@every()
def test_gradient_reaches_the_student_and_own_parameters_not_the_teacher(spec: Spec):
    module, inputs = built(spec), leaves(spec, draw(spec))
    torch.manual_seed(3)
    module(**inputs).backward()
    student, teacher = floats(inputs, spec.student), floats(inputs, spec.teacher)
    assert student, "the spec names no floating student tensor"
    for i, tensor in enumerate(student):
        assert tensor.grad is not None, f"student tensor {i} gets no gradient"
        assert tensor.grad.abs().sum() > 0, f"the gradient of student tensor {i} is zero"
    for i, tensor in enumerate(teacher):
        assert tensor.grad is None, f"teacher tensor {i} gets a gradient"
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"parameter {name} gets no gradient"
            assert torch.isfinite(parameter.grad).all(), f"gradient of parameter {name} is not finite"


@every()
def test_mixed_precision_gives_a_finite_float32_value(spec: Spec):
    module = built(spec)
    for dtype in (torch.float32, torch.bfloat16):
        inputs = leaves(spec, draw(spec), dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            loss = assert_finite(spec, module, inputs)
        assert loss.dtype == torch.float32


def runs_no_layer(spec: Spec) -> bool:
    """Nothing in the loss may run in bf16: it owns no layer and is given none."""
    inputs = draw(spec).values()
    return not any(True for _ in built(spec).parameters()) and not any(isinstance(x, nn.Module) for x in inputs)


@every(runs_no_layer)
def test_half_precision_inputs_are_computed_in_float32(spec: Spec):
    module, half = built(spec), leaves(spec, draw(spec), dtype=torch.bfloat16)
    same = {name: tree(lambda x: x.float() if x.is_floating_point() else x, value) for name, value in half.items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = call(module, half)
    torch.testing.assert_close(loss, call(module, same), rtol=1e-5, atol=1e-6)


@every(lambda s: s.permutation)
def test_order_of_the_batch_does_not_matter(spec: Spec):
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))

    def permute(x: Tensor) -> Tensor:
        if x.dim() == 0 or len(x) % BATCH:
            return x
        return x.unflatten(0, (-1, BATCH))[:, order].flatten(0, 1)

    module, inputs = built(spec, dtype=torch.float64), leaves(spec, draw(spec), dtype=torch.float64)
    shuffled = {name: tree(permute, value) for name, value in inputs.items()}
    torch.testing.assert_close(call(module, shuffled), call(module, inputs), rtol=1e-7, atol=1e-9)


@every()
def test_state_dict_round_trip(spec: Spec):
    first, second, inputs = built(spec, seed=0), built(spec, seed=1), leaves(spec, draw(spec))
    first(**inputs)  # a memory inside moves on
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(call(second, inputs), call(first, inputs), rtol=0, atol=0)


@every(lambda s: s.compile)
def test_compiled_equals_eager(spec: Spec):
    module, inputs = built(spec), leaves(spec, draw(spec))
    expected = call(module, inputs)
    torch.compiler.reset()
    torch.manual_seed(3)
    # aot_eager: whether the graph can be captured is ours; the code that inductor writes is not.
    actual = torch.compile(module, fullgraph=True, backend="aot_eager")(**inputs)
    torch.testing.assert_close(actual, expected)
