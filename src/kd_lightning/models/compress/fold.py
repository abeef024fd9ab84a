"""Fold batch norms into the convolutions before them: a frozen network gives the same numbers in fewer operations."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from kd_lightning.models.anatomy.traced import evaluating

_log = logging.getLogger(__name__)


def fold_batchnorm(
    net: nn.Module, example: Tensor | Mapping[str, Any] | None = None, keep: Collection[str] = ()
) -> nn.Module:
    """A copy in eval mode in which batch norms that directly follow a convolution or linear layer are folded into it.

    Module paths stay: a folded norm becomes ``nn.Identity`` (of timm's norms with activation, the activation stays),
    so that its output is what it was. The output of the convolution itself changes.

    Args:
        net: The network; not changed. Batch norms must be in use for evaluation only, so it should be frozen.
        example: An input (B, ...) or keyword arguments. With one, the copy is checked against the original, and
            networks that torch.fx cannot trace can be folded too.
        keep: Paths of batch norms that must stay (whose weights a method reads).

    Returns:
        The folded copy; an unfolded copy in eval mode where nothing can be folded, or where folding would change an
        output by more than 1e-4 of its scale.
    """
    plain = copy.deepcopy(net).eval()
    pairs = _pairs_by_graph(plain)
    if pairs is None:
        pairs = _pairs_by_run(plain, example) if example is not None else {}
    folded = copy.deepcopy(plain)
    for norm_path, layer_path in pairs.items():
        if norm_path not in keep:
            _fold(folded, layer_path, norm_path)
    if example is not None and not _agree(plain, folded, example):
        _log.warning("Folding batch norms would change the output of %s: left as it is.", type(net).__name__)
        return plain
    return folded


class FoldedNormAct(nn.Module):
    """What stays of one of timm's norms with activation: the activation, under its old path."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        out: Tensor = self.act(x)
        return out


class _Tracer(fx.Tracer):
    """Traces into everything but the layers that are looked for, in whatever package they are defined."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, _BatchNorm) or super().is_leaf_module(module, path)


def _pairs_by_graph(net: nn.Module) -> dict[str, str] | None:
    """Norm path to layer path, where the norm is the only reader of the layer; None where tracing fails."""
    try:
        graph = _Tracer().trace(net)
    except Exception as error:
        _log.debug("torch.fx cannot trace %s: %s", type(net).__name__, error)
        return None
    modules = dict(net.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    pairs = {}
    for node in calls:
        source = node.args[0] if node.args else None
        if not isinstance(modules[node.target], _BatchNorm) or not isinstance(source, fx.Node):
            continue
        if source.op != "call_module" or len(source.users) > 1 or times[source.target] > 1 or times[node.target] > 1:
            continue
        if _foldable(modules[source.target], modules[node.target]):
            pairs[str(node.target)] = str(source.target)
    return pairs


def _pairs_by_run(net: nn.Module, example: Tensor | Mapping[str, Any]) -> dict[str, str]:
    """Norm path to layer path, where the norm was given the very tensor that the layer had returned."""
    outputs: dict[int, tuple[str, nn.Module, Tensor]] = {}
    pairs: dict[str, str] = {}
    times: Counter[str] = Counter()
    handles = []
    for path, module in net.named_modules():

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any, path: str = path) -> None:
            times[path] += 1
            if isinstance(module, _BatchNorm) and id(args[0]) in outputs:
                layer_path, layer, _ = outputs[id(args[0])]
                if _foldable(layer, module):
                    pairs[path] = layer_path
            elif isinstance(output, Tensor) and not isinstance(module, _BatchNorm):
                # Kept alive, so that its id is not given to another tensor.
                outputs.setdefault(id(output), (path, module, output))

        handles.append(module.register_forward_hook(hook))
    try:
        _run(net, example)
    finally:
        for handle in handles:
            handle.remove()
    return {norm: layer for norm, layer in pairs.items() if times[norm] == times[layer] == 1}


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    # Exact classes and no pre-hooks: the weight may be computed anew in every forward (standardised, quantised).
    known = type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) or type(layer).__name__ == "Conv2dSame"
    return known and getattr(norm, "running_mean", None) is not None and not layer._forward_pre_hooks


def _fold(net: nn.Module, layer_path: str, norm_path: str) -> None:
    layer: Any = net.get_submodule(layer_path)
    norm: Any = net.get_submodule(norm_path)
    fused = fuse_linear_bn_eval(layer, norm) if isinstance(layer, nn.Linear) else fuse_conv_bn_eval(layer, norm)
    net.set_submodule(layer_path, fused)
    activation = getattr(norm, "act", None)
    net.set_submodule(norm_path, FoldedNormAct(activation) if isinstance(activation, nn.Module) else nn.Identity())


def _run(net: nn.Module, example: Tensor | Mapping[str, Any]) -> Any:
    with evaluating(net):
        return net(**example) if isinstance(example, Mapping) else net(example)


def _agree(plain: nn.Module, folded: nn.Module, example: Tensor | Mapping[str, Any]) -> bool:
    before, after = _tensors(_run(plain, example)), _tensors(_run(folded, example))

    def close(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=0, atol=1e-4 * max(1.0, a.abs().max().item()))

    return all(close(a, b) for a, b in zip(before, after, strict=True))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else []
    return [tensor for value in values for tensor in _tensors(value)]
