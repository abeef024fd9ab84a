"""Which tokens the layers of a net may see: all before, those in a window, or those of the same chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class Windows:
    """The windows of a net.

    Attributes:
        kinds: What every layer sees, under the names of transformers; one for all layers where they are alike.
        window: Tokens that a layer with a sliding window sees, the own one among them.
        chunk: Tokens of a chunk.
    """

    kinds: tuple[str, ...] = (FULL,)
    window: int | None = None
    chunk: int | None = None

    @classmethod
    def of(cls, config: Any) -> Windows:
        """As a configuration of transformers says; None: everything is seen."""
        window, chunk = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        alike = SLIDING if window is not None else CHUNKED if chunk is not None else FULL
        return cls(tuple(getattr(config, "layer_types", None) or (alike,)), window, chunk)

    def of_layer(self, layer: int) -> str:
        """What a layer sees."""
        return self.kinds[layer if len(self.kinds) > 1 else 0]

    def masks(self, mask: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Who may attend to whom, (B, 1, T, T) bool, for every kind of layer.

        Args:
            mask: The same without windows.
            positions: Positions (B, T) within each text, from 0.

        Raises:
            ValueError: A kind of layer that is none of attention: what it keeps is not masked.
        """
        found = {}
        for kind in dict.fromkeys(self.kinds):
            if kind == SLIDING and self.window is not None:
                place = torch.arange(mask.shape[-1], device=mask.device)
                found[kind] = mask & (place[:, None] - place < self.window)
            elif kind == CHUNKED and self.chunk is not None:
                part = positions // self.chunk
                found[kind] = mask & (part[:, None, :, None] == part[:, None, None, :])
            elif kind == FULL:
                found[kind] = mask
            else:
                raise ValueError(f"layers of the kind '{kind}' keep what they have read in another way than attention")
        return found
