"""What a net says of a split: kept in rows for the comparison, and measured over the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.targets import IGNORE
from kd_lightning.files.artifact import Answers
from kd_lightning.tasks.base import Task

# Outputs that are kept of a split, as numbers: of tokens with a large vocabulary, an even sample (80 MB of float32).
KEPT = 20_000_000
# A token's number is that of its sample times this, and its position.
STRIDE = 2**20


@dataclass
class Predictions:
    """Outputs of a net over a split.

    Attributes:
        rows: ``logits`` (N, C), ``target`` (N,) and ``index`` (N,), on the CPU. Where every token has a target, a row
            is a token and ``index`` is that of its sample times 2**20, plus its position.
        whole: Metrics of all tokens, where the rows may be a sample of them.
    """

    rows: dict[str, Tensor]
    whole: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the rows as safetensors."""
        save_file(self.rows, path)

    def metrics(self, task: Task) -> dict[str, float]:
        """What the task measures of a net by itself."""
        answers = Answers("this net", **self.rows)
        return task.measures(answers.logits, answers.target) | self.whole


@torch.no_grad()
def predict(
    net: nn.Module, call: Any, split: str, data: SplitDataModule, device: torch.device | None = None
) -> Predictions:
    """Outputs of a net over a split.

    Args:
        net: Any net; its mode is put back afterwards.
        call: How a batch goes through it.
        split: ``train``, ``validation`` or ``test``.
        data: Prepared data.
        device: Where the net is moved to while it runs; None for where it is.
    """
    home = next(net.parameters()).device
    where = home if device is None else device
    training = net.training
    net.to(where).eval()
    try:
        loader = data.loader(split, whole=True)
        outputs = _outputs(net, call, (data.ready(raw, where) for raw in loader), data.task.output)
        if data.target.each != "token":
            return Predictions(_stack(outputs))
        return _of_tokens(outputs, _count(data.loader(split, whole=True), _target_of(call)))
    finally:
        net.to(home).train(training)


def _outputs(
    net: nn.Module, call: Any, batches: Iterable[dict[str, Any]], name: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Outputs, targets and indices, batch by batch; targets that say nothing are zeros."""
    for batch in batches:
        output = call(net, batch)[name].float()
        target = batch[_target_of(call)]
        if name != "logits":  # an embedding has no right answer
            target = torch.zeros(len(output))
        yield output, target.to(output.device), batch["index"].cpu()


def _stack(outputs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    parts = [(logits.cpu(), target.cpu(), index) for logits, target, index in outputs]
    return dict(zip(("logits", "target", "index"), map(torch.cat, zip(*parts, strict=True)), strict=True))


def _target_of(call: Any) -> str:
    """Where a batch holds the targets of a net: of a teacher with a tokenizer of its own, beside the student's."""
    return f"{getattr(call, 'prefix', '')}target"


def _count(loader: Iterable[dict[str, Any]], key: str) -> int:
    """Tokens of a split that have a target."""
    return sum(int((batch[key] != IGNORE).sum()) for batch in loader)


def _of_tokens(outputs: Iterable[tuple[Tensor, Tensor, Tensor]], tokens: int) -> Predictions:
    """A row a token, every k-th one if there are many; likelihood and accuracy of all."""
    nll, right, seen, rows = 0.0, 0, 0, []
    for logits, target, index in outputs:
        told = target != IGNORE
        numbers = (index[:, None] * STRIDE + torch.arange(target.shape[1]))[told.cpu()]
        logits, target = logits[told], target[told]
        nll += float(F.cross_entropy(logits, target, reduction="sum").double())
        right += int((logits.argmax(1) == target).sum())
        step = max(1, math.ceil(tokens * logits.shape[1] / KEPT))
        keep = torch.arange(seen, seen + len(target)) % step == 0
        rows.append((logits[keep.to(logits.device)], target[keep.to(target.device)], numbers[keep]))
        seen += len(target)
    mean = nll / max(seen, 1)
    whole = {"nll": mean, "perplexity": math.exp(min(mean, 700.0)), "top1": right / max(seen, 1)}
    return Predictions(_stack(rows), whole)
