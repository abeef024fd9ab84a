"""Structured pruning before distillation: the student is the teacher with its weakest channels taken out."""

from __future__ import annotations

import copy
import importlib.util

import torch
from torch import Tensor, nn

from kd_lightning.core.quiet import quiet


def pruned_teacher(
    student: nn.Module, teacher: nn.Module, example: Tensor, ratio: float = 0.5, multiple: int = 4
) -> nn.Module:
    """A smaller copy of the teacher, to be used as ``method.student_wrapper``.

    Every group of layers that share channels loses the same share of them, those with the smallest weights (Fang et
    al., DepGraph: Towards Any Structural Pruning, CVPR 2023; the package torch-pruning). The shapes so depend on
    ``ratio`` alone and not on the weights: a run can be loaded again without its teacher. What is left starts from the
    teacher's weights; distillation then mends what the cut has broken.

    Args:
        student: The configured student; not used.
        teacher: The net that is pruned; not changed.
        example: Images (B, C, H, W) that it takes.
        ratio: Share of the channels to take out, between 0 and 1.
        multiple: Numbers of channels are kept at multiples of this, which hardware likes.

    Raises:
        ModuleNotFoundError: torch-pruning is not installed.
        ValueError: ``ratio`` is out of range, or the net cannot be pruned.
    """
    if importlib.util.find_spec("torch_pruning") is None:
        raise ModuleNotFoundError("pruned_teacher needs torch-pruning: pip install 'kd-lightning[prune]'.")
    if not 0 < ratio < 1:
        raise ValueError(f"pruned_teacher: ratio must lie between 0 and 1, not {ratio}.")
    net = copy.deepcopy(teacher).cpu().eval().requires_grad_(True)
    name = type(teacher).__name__
    with torch.enable_grad():
        classes = net(example).shape[-1]
        last = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        try:
            with quiet():
                _prune(net, example, last, ratio, multiple)
                answer = net(example)
        except Exception as error:  # whatever a net that it cannot follow makes it stumble over
            raise ValueError(
                f"torch-pruning cannot take {name} apart ({type(error).__name__}: {error}). ResNets, WRNs, VGGs and"
                " MobileNets work; nets that shuffle channels or reshape tokens do not."
            ) from error
    if answer.shape[-1] != classes:
        raise ValueError(f"Pruning {name} would take classes away: its last layer is no nn.Linear.")
    return net.train()


def _prune(net: nn.Module, example: Tensor, keep: list[nn.Linear], ratio: float, multiple: int) -> None:
    """Take channels out, in place."""
    import torch_pruning

    torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=keep,
        round_to=multiple,
    ).step()
    net.zero_grad()
