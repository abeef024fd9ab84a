"""Where queries, keys and values of transformers are, and the attention scores that follow from them.

Known by the names of the projections inside the attention modules of the library transformers:
BERT, RoBERTa, ELECTRA (query, key, value), DistilBERT (q_lin, ...), OPT, Llama, Qwen, Mistral (q_proj, ...), GPT-2
(one fused c_attn) and GPT-NeoX (one fused query_key_value).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.taps import Taps

# Names of the projections in an attention module; one name where they are fused.
LAYOUTS = (
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("q_proj", "k_proj", "v_proj"),
    ("c_attn",),
    ("query_key_value",),
)
# Rotary families whose scores follow from queries, keys and positions alone.
ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")
NO_SCORES = ("alibi", "attn_logit_softcapping", "position_buckets", "relative_attention_num_buckets")
# The score of a pair that may not attend: finite, so that differences are; far below what any loss counts.
MASKED = -1e4


@dataclass(frozen=True)
class Projections:
    """Queries (B, T, D), keys and values (B, T, D_kv) of one layer, all heads side by side."""

    query: Tensor
    key: Tensor
    value: Tensor


class AttentionReader:
    """Reads queries, keys and values while a net runs, by hooks that are silent otherwise.

    Args:
        net: A transformer of a known family.

    Raises:
        ValueError: Where no attention of a known family is found, or queries meet keys of another sequence.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        found = [(path, names) for path, module in net.named_modules() for names in LAYOUTS if _has(module, names)]
        if not found or getattr(getattr(net, "config", None), "is_encoder_decoder", False):
            raise ValueError(
                f"Queries, keys, values and attention scores of {type(net).__name__} are not known: its attention is of"
                " none of the families BERT, RoBERTa, ELECTRA, DistilBERT, OPT, Llama, Qwen, GPT-2, GPT-NeoX. Take a"
                " method on hidden states or logits, or tap modules by their path."
            )
        config: Any = getattr(net, "config", None)
        self.config = config
        self.layers = found
        self.modules: list[Any] = [net.get_submodule(path) for path, _ in found]
        self.heads = int(config.num_attention_heads)
        self._taps = Taps(net, [f"{path}.{name}" for path, names in found for name in names], "the attention")
        self._taps.enabled = False

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it only."""
        return bool(getattr(self.modules[0], "is_causal", False))

    def start(self) -> None:
        """Record the next forward pass."""
        self._taps.enabled = True

    def stop(self) -> None:
        """Record no more, and forget what was recorded."""
        self._taps.enabled = False
        self._taps.forget()

    def remove(self) -> None:
        """Take the hooks off the net."""
        self._taps.remove()

    def take(self) -> list[Projections]:
        """What the forward pass gave, from the first to the last layer."""
        captured = self._taps.take()
        parts = [[captured[f"{path}.{name}"] for name in names] for path, names in self.layers]
        return [
            Projections(*(part if len(part) == 3 else self._split(part[0], names[0])))
            for part, (_, names) in zip(parts, self.layers, strict=True)
        ]

    def _split(self, fused: Tensor, name: str) -> tuple[Tensor, ...]:
        if name == "c_attn":
            return fused.chunk(3, dim=-1)
        # GPT-NeoX: within each head, its query, key and value.
        by_head = fused.reshape(*fused.shape[:-1], self.heads, -1)
        return tuple(part.flatten(-2) for part in by_head.chunk(3, dim=-1))

    def scores(self, layers: list[Projections], masks: list[Tensor], positions: Tensor | None) -> list[Tensor]:
        """Attention scores before the softmax, (B, heads, T, T), of every layer.

        Args:
            layers: What :meth:`take` gave.
            masks: Of each, who may attend to whom, broadcast to (B, heads, T, T); others score ``MASKED``.
            positions: Positions (B, T) for rotary embeddings; None counts from 0.

        Raises:
            ValueError: Where the scores of the family do not follow from queries and keys.
        """
        rotary = next((m for m in self.net.modules() if type(m).__name__.endswith("RotaryEmbedding")), None)
        family = getattr(self.config, "model_type", "")
        extra = [name for name in NO_SCORES if getattr(self.config, name, None)]
        if extra or family == "bloom" or (rotary is not None and family not in ROTARY):
            raise ValueError(
                f"The attention scores of {type(self.net).__name__} ({family}) do not follow from its queries and keys"
                f" alone ({', '.join(extra) or 'rotary or relative positions'}). Take a method on hidden states, on"
                " queries, keys and values (minilmv2), or on logits."
            )
        table = None if rotary is None else self._rotations(rotary, layers[0].query, positions)
        every = zip(self.modules, layers, masks, strict=True)
        return [self._scores(module, layer, mask, table) for module, layer, mask in every]

    @staticmethod
    @torch.no_grad()
    def _rotations(rotary: nn.Module, like: Tensor, positions: Tensor | None) -> Any:
        if positions is None:
            positions = torch.arange(like.shape[1], device=like.device).unsqueeze(0)
        return rotary(like, positions)

    def _scores(self, module: Any, layer: Projections, mask: Tensor, table: Any) -> Tensor:
        width = layer.query.shape[-1] // self.heads
        query, key = (x.reshape(*x.shape[:-1], -1, width) for x in (layer.query, layer.key))
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        if table is not None:
            query, key = sys.modules[type(module).__module__].apply_rotary_pos_emb(query, key, *table)
        key = key.repeat_interleave(self.heads // key.shape[1], dim=1)
        scores: Tensor = query @ key.transpose(-1, -2) * float(getattr(module, "scaling", width**-0.5))
        return scores.masked_fill(~mask, MASKED)


def _has(module: nn.Module, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


def visible(valid: Tensor, causal: bool, segments: Tensor | None = None) -> Tensor:
    """Who may attend to whom, (B, 1, T, T) bool.

    Args:
        valid: Real tokens, (B, T).
        causal: Only to tokens before, and to itself.
        segments: Number of the text that a token belongs to, (B, T), where several are packed into one row.
    """
    mask = valid.bool()[:, None, None, :].expand(-1, -1, valid.shape[1], -1)
    if causal:
        mask = mask & torch.ones(valid.shape[1], valid.shape[1], dtype=torch.bool, device=valid.device).tril()
    if segments is not None:
        mask = mask & (segments[:, None, :, None] == segments[:, None, None, :])
    return mask
