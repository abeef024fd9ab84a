"""Where the parts of a network are: what a distillation method may tap without being told.

Every entry is a tap: ``layer2`` means the output of the submodule ``layer2``, ``fc:in`` the first input of ``fc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Anatomy:
    """Taps of a network, from input to output; empty where the network has no such place.

    Attributes:
        stem: What the stages start from.
        stages: One map (B, C, H, W), or one token sequence (B, T, D), after each stage, activation included.
        preacts: The same before the last activation; a stage that ends without one is its own pre-activation.
        preact_norms: The batch norms that the pre-activations come from (of the residual branch, where one is added).
        embedding: The input of the classifier, (B, D); (B, T, D) for language models.
        head: The classifier: ``head(embedding)`` are the logits.
        last_map: The map whose mean over space is the embedding.
    """

    stem: str = ""
    stages: tuple[str, ...] = ()
    preacts: tuple[str, ...] = ()
    preact_norms: tuple[str, ...] = ()
    embedding: str = ""
    head: str = ""
    last_map: str = ""

    def aliases(self) -> dict[str, str | tuple[str, ...]]:
        """The entries that are not empty, by name."""
        return {name: places for name, places in asdict(self).items() if places}


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
    from kd_lightning.models import _anatomy_known, _anatomy_traced

    described = getattr(net, "anatomy", None)
    if callable(described):
        own: Anatomy = described()
        return own
    known = _anatomy_known.propose(net, blocks)
    found = known or Anatomy(**_anatomy_traced.last_linear(net))  # type: ignore[arg-type]
    if example is not None and not found.stages and not _anatomy_known.maps_are_channels_last(net):
        traced = _anatomy_traced.propose(net, example, blocks)
        # A known network without a head has none: its last linear layer is something else.
        found = traced if known is None else replace(known, stem=known.stem or traced.stem, stages=traced.stages)
    if not found.head and not found.stages:
        raise ValueError(
            f"Nothing to tap is known in {type(net).__name__}: it has no linear layer at its end and is of no known"
            " family. Name the places yourself (taps.embedding=<module>:in, taps.stages=[<module>, ...]), or give the"
            " class a method anatomy() that returns kd_lightning.models.anatomy.Anatomy."
        )
    return found
