"""CRD: its negatives, its memory, and two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from kd_lightning.losses.crd import CRDLoss, draw_negatives
from tests.losses.golden_relation import crd_arguments, crd_module
from tests.losses.goldens import FOLDER, Case, load

# -- negatives --------------------------------------------------------------------------------------------------


def test_negatives_are_uniform_over_all_others():
    torch.manual_seed(0)
    index, n, k = torch.tensor([0, 3, 9]), 10, 30_000
    drawn = draw_negatives(index, k, n)
    for own, row in zip(index.tolist(), drawn, strict=True):
        counts = torch.bincount(row, minlength=n)
        assert counts[own] == 0
        others = counts[torch.arange(n) != own].double()
        # chi-square with 8 degrees of freedom; 26.1 is its 99.9 % point
        assert ((others - k / 9).square() / (k / 9)).sum() < 26.1


def test_all_others_are_taken_once_where_there_are_no_more():
    drawn = draw_negatives(torch.tensor([0, 2, 4]), 4, 5)
    assert drawn.tolist() == [[1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3]]


def test_negatives_of_other_classes_are_uniform():
    torch.manual_seed(0)
    labels = torch.tensor([2, 0, 1, 0, 2, -1, 1, 0])  # -1: not seen yet, so of another class
    index = torch.tensor([1, 4, 6])
    for own, row in zip(index.tolist(), draw_negatives(index, 20_000, 8, labels), strict=True):
        allowed = labels != labels[own]
        counts = torch.bincount(row, minlength=8).double()
        assert counts[~allowed].sum() == 0
        expected = 20_000 / allowed.sum()
        assert ((counts[allowed] - expected).square() / expected).sum() < 22.5  # 99.9 % point, at most 6 degrees


def test_one_class_leaves_no_negatives():
    with pytest.raises(ValueError, match="mode: exact"):
        draw_negatives(torch.tensor([0]), 3, 4, torch.zeros(4, dtype=torch.long))


# -- memory -----------------------------------------------------------------------------------------------------


def crd_inputs(n: int = 12, batch: int = 4) -> dict[str, Any]:
    return {
        "student": torch.randn(batch, 5),
        "teacher": torch.randn(batch, 7),
        "index": torch.randperm(n)[:batch],
        "num_samples": n,
        "target": torch.randint(3, (batch,)),
    }


def crd(inputs: dict[str, Any], seed: int = 0, **settings: Any) -> CRDLoss:
    torch.manual_seed(seed)
    module = CRDLoss(dim=6, **settings)
    module.build(**inputs)
    return module


@pytest.mark.parametrize("raw", [pytest.param(c, id=c["name"]) for c in load(FOLDER / "crd.pt")])
def test_crd_memory_after_a_step_equals_the_reference(raw: dict[str, Any]):
    case = Case(raw["name"], raw["inputs"], raw["hparams"], raw["state"], raw["extra"], getattr(torch, raw["dtype"]))
    module = crd_module(case)
    module(**crd_arguments(case))
    for ours, theirs in (
        (module.memory_student, raw["extra"]["memory_v1_after"]),
        (module.memory_teacher, raw["extra"]["memory_v2_after"]),
        (module.normalisers, raw["extra"]["params_after"][2:4]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_crd_moves_the_rows_of_the_batch_only_and_keeps_z():
    inputs = crd_inputs()
    module = crd(inputs)
    before = {n: b.clone() for n, b in module.named_buffers()}
    module(**inputs).backward()
    rest = torch.ones(12, dtype=torch.bool)
    rest[inputs["index"]] = False
    for name in ("memory_student", "memory_teacher"):
        memory = getattr(module, name)
        assert torch.equal(memory[rest], before[name][rest])
        torch.testing.assert_close(memory[~rest].norm(dim=1), torch.ones(4))
    z = module.normalisers.clone()
    assert (z > 0).all()
    assert torch.equal(module.labels[inputs["index"]], inputs["target"])
    module(**crd_inputs()).backward()
    assert torch.equal(module.normalisers, z)
    assert {"memory_student", "memory_teacher", "normalisers", "labels"} <= set(module.state_dict())


def test_crd_changes_nothing_in_eval_mode():
    inputs = crd_inputs()
    module = crd(inputs).eval()
    before = {n: b.clone() for n, b in module.named_buffers()}
    assert torch.isfinite(module(**inputs))
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_crd_leaves_ignored_rows_out():
    inputs = crd_inputs()
    inputs["target"] = torch.tensor([0, -100, 2, -100])
    valid = {k: v[[0, 2]] if isinstance(v, Tensor) else v for k, v in inputs.items()}
    whole, part = crd(inputs, mode="exact"), crd(inputs, mode="exact")
    torch.testing.assert_close(whole(**inputs), part(**valid))
    assert torch.equal(whole.memory_student, part.memory_student)


def test_crd_writes_a_sample_that_comes_twice_once():
    inputs = crd_inputs()
    inputs["index"] = torch.tensor([3, 8, 3, 1])
    module = crd(inputs)
    row = module.memory_student[3].clone()
    module(**inputs)
    last = nn.functional.normalize(module.embed_student(inputs["student"])[2], dim=0)
    expected = nn.functional.normalize(0.5 * row + 0.5 * last, dim=0)
    torch.testing.assert_close(module.memory_student[3], expected)


def test_crd_learns():
    torch.manual_seed(0)
    n = 8
    teacher, student = torch.eye(n), torch.eye(n)[torch.randperm(n)]
    inputs = {"student": student, "teacher": teacher, "index": torch.arange(n), "num_samples": n}
    module = crd(inputs, mode="exact")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        loss = module(**inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[1]


def test_crd_says_what_is_wrong():
    inputs = crd_inputs()
    module = crd(inputs)
    with pytest.raises(ValueError, match="choose one of exclude_class, exact"):
        CRDLoss(mode="relax")
    with pytest.raises(ValueError, match="needs target"):
        module(**{**inputs, "target": None})
    with pytest.raises(ValueError, match="the index 12"):
        module(**{**inputs, "index": torch.tensor([0, 1, 2, 12])})
    with pytest.raises(ValueError, match="num_samples is 13"):
        module(**{**inputs, "num_samples": 13})
    with pytest.raises(ValueError, match="num_samples is 1"):
        crd({**inputs, "num_samples": 1})


# -- two processes ----------------------------------------------------------------------------------------------

STEPS = [(0, 4, 8), (8, 13, 16), (16, 18, 18)]  # first row, split, end: equal halves, unequal ones, one side empty


def distributed_batch(begin: int, end: int) -> dict[str, Any]:
    torch.manual_seed(1)
    whole = {
        "student": torch.randn(18, 5),
        "teacher": torch.randn(18, 7),
        "index": torch.cat([torch.randperm(12), torch.randperm(12)[:6]]),
        "target": torch.randint(3, (18,)),
    }
    return {**{k: v[begin:end] for k, v in whole.items()}, "num_samples": 12}


def train_steps(mode: str, rank: int | None) -> dict[str, Any]:
    """Three steps of one process (rank None) or of one of two; gradients of the first and the buffers at the end."""
    module: nn.Module = crd(distributed_batch(0, 4), mode=mode, negatives=11)
    core = module
    if rank is not None:
        # Buffers are not broadcast: that would hide a memory that went its own way.
        module = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
        torch.manual_seed(100 + rank)  # processes may draw different negatives
    gradients = {}
    for begin, split, end in STEPS:
        rows = (begin, end) if rank is None else (begin, split) if rank == 0 else (split, end)
        module.zero_grad()
        module(**distributed_batch(*rows)).backward()
        gradients = gradients or {n: p.grad.clone() for n, p in core.named_parameters()}
    return {"gradients": gradients, "buffers": {n: b.clone() for n, b in core.named_buffers()}}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {mode: train_steps(mode, rank) for mode in ("exact", "exclude_class")}
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_crd_on_two_processes_equals_one(tmp_path: Path):
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for mode in ("exact", "exclude_class"):
        for name, buffer in first[mode]["buffers"].items():
            assert torch.equal(buffer, second[mode]["buffers"][name]), f"{mode}: {name} differs between processes"
    # With all other samples as negatives nothing is random.
    alone = train_steps("exact", None)
    torch.testing.assert_close(first["exact"]["buffers"], alone["buffers"])
    torch.testing.assert_close(first["exact"]["gradients"], alone["gradients"])
    alone = train_steps("exclude_class", None)
    for name in ("memory_student", "memory_teacher", "labels"):
        torch.testing.assert_close(first["exclude_class"]["buffers"][name], alone["buffers"][name])
