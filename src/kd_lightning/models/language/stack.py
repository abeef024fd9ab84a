"""Students made from a teacher: some of its layers, at its width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

# Names of the list of equal layers in transformers' encoders and decoders.
LISTS = ("layer", "layers", "h", "block", "blocks")
# Fields of a configuration that count layers, or hold one value for each of them.
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
PER_LAYER = ("layer_types", "mlp_layer_types")


def layer_list(net: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and modules of the stack of layers.

    Raises:
        ValueError: There is none, or more than one (encoder and decoder).
    """
    found = [
        (path, module)
        for path, module in net.named_modules()
        if isinstance(module, nn.ModuleList) and path.rpartition(".")[2] in LISTS and len(module) > 0
    ]
    outer = [(p, m) for p, m in found if not any(p.startswith(f"{other}.") for other, _ in found)]
    if len(outer) != 1:
        what = ", ".join(path for path, _ in outer) or "none"
        raise ValueError(f"{type(net).__name__} has no single stack of layers to choose from (found: {what}).")
    return outer[0]


def keep_layers(net: Any, layers: Sequence[int]) -> None:
    """Keep only these layers of the stack, in this order; the net's configuration follows.

    Args:
        net: A model of transformers, changed in place.
        layers: Which, from 0; negative ones count from the end.

    Raises:
        ValueError: A layer that the net does not have, one twice, or none at all.
    """
    path, stack = layer_list(net)
    chosen = [layer + len(stack) if layer < 0 else layer for layer in layers]
    wrong = [layer for layer in chosen if not 0 <= layer < len(stack)]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"layers={list(layers)}: name different layers from 0 to {len(stack) - 1} of the {len(stack)} that"
            f" {type(net).__name__} has."
        )
    net.set_submodule(path, nn.ModuleList(stack[layer] for layer in chosen))
    for place, layer in enumerate(chosen):
        kept: Any = layer_list(net)[1][place]
        for module in kept.modules():  # each knows its place, for the cache of keys and values
            if getattr(module, "layer_idx", None) == layer:
                module.layer_idx = place
    for field in COUNTS:
        if hasattr(net.config, field):
            setattr(net.config, field, len(chosen))
    for field in PER_LAYER:
        if isinstance(getattr(net.config, field, None), list):
            setattr(net.config, field, [getattr(net.config, field)[layer] for layer in chosen])
