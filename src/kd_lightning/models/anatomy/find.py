"""Where the parts of a network are: what a distillation method may tap without being told.

Every entry is a tap: ``layer2`` means the output of the submodule ``layer2``, ``fc:in`` the first input of ``fc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kd_lightning.models.anatomy import known, traced
from kd_lightning.models.anatomy.places import Anatomy


def anatomy(net: nn.Module, example: Tensor | Mapping[str, Any] | None = None, blocks: int = 4) -> Anatomy:
    """Propose the taps of a network.

    A network may say itself, with a method ``anatomy() -> Anatomy``; the families of this package do. Otherwise there
    are rules for timm, torchvision and transformers. What no rule knows is looked for in one forward pass, if there
    is an example: the last linear layer as the head, and as stages the last output at each resolution, or, in a stack
    of equal blocks, some of the blocks. Maps that lie as (B, H, W, C), as in Swin transformers, are not proposed.

    Args:
        net: Any network.
        example: An input of the network, (B, ...), or its keyword arguments.
        blocks: How many blocks stand for the stages in a stack of equal blocks (transformers), evenly spaced and the
            last one always among them.

    Raises:
        ValueError: Where neither a head nor stages are found; says how to name them.
    """
    described = getattr(net, "anatomy", None)
    if callable(described):
        own: Anatomy = described()
        return own
    by_rule = known.propose(net, blocks)
    found = by_rule or Anatomy(**traced.last_linear(net))  # type: ignore[arg-type]
    if example is not None and not found.stages and not known.maps_are_channels_last(net):
        seen = traced.propose(net, example, blocks)
        # A known network without a head has none: its last linear layer is something else.
        found = seen if by_rule is None else replace(by_rule, stem=by_rule.stem or seen.stem, stages=seen.stages)
    if not found.head and not found.stages:
        raise ValueError(
            f"Nothing to tap is known in {type(net).__name__}: it has no linear layer at its end and is of no known"
            " family. Name the places yourself (taps.embedding=<module>:in, taps.stages=[<module>, ...]), or give the"
            " class a method anatomy() that returns kd_lightning.models.anatomy.places.Anatomy."
        )
    return found
