"""Callbacks that tests add on the command line (+callbacks.probe._target_=tests.methods.probe.Steps)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


class Steps(pl.Callback):
    """Writes which parameters each step changed, and which terms it had, to steps.json.

    Args:
        dirpath: Set by the framework: the arm's folder of checkpoints.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath).parent / "steps.json"
        self.steps: list[dict[str, list[str]]] = []
        self.before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in pl_module.named_learnable()}
        self.counts = dict(pl_module._counts)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        changed = [name for name, p in pl_module.named_learnable() if not torch.equal(p, self.before[name])]
        terms = [n for n, count in pl_module._counts.items() if n != "loss" and count > self.counts.get(n, 0)]
        self.steps.append({"terms": sorted(terms), "changed": changed})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.steps))


class Memory(pl.Callback):
    """Writes the buffers of the losses of every process to memory_<rank>.pt."""

    def __init__(self, dirpath: str) -> None:
        self.folder = Path(dirpath).parent

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(dict(pl_module.objective.named_buffers()), self.folder / f"memory_{trainer.global_rank}.pt")
