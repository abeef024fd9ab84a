"""Drawing tokens: a function of the sample's name alone, and from the mixture of two nets where wanted."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any, Protocol

import torch
from torch import Tensor, nn


def seed_of(*names: int | str) -> int:
    """A seed (63 bits) that is a function of the names alone."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "little") >> 1


def coin(probability: float, *names: int | str) -> bool:
    """True with this probability; the same for the same names, on every process."""
    return seed_of(*names) < probability * 2**63


def noise(seed: int, view: int, index: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), (B, count) float64 on the CPU; each row a function of (seed, view, index) alone.

    Torch's global generators are not touched: a training with a rollout draws the same dropout masks as one without,
    and a resumed one the same samples as one that was never interrupted.
    """
    rows = []
    for name in index.tolist():
        generator = torch.Generator().manual_seed(seed_of(seed, view, name))
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def exact(device: torch.device) -> torch.dtype:
    """The most precise type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Guide(Protocol):
    """Another net that reads along: ``input_ids`` (B, L) so far -> logits (B, V) of the next token."""

    def __call__(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token."""
        ...


class CachedGuide:
    """A causal language model of transformers that reads along with its own KV cache.

    Args:
        net: Takes ``input_ids``, ``attention_mask`` and ``past_key_values``.
        attention_mask: Of the prompts, (B, P).
        vocab_size: Tokens that exist; logits beyond are cut off. None for all.
    """

    def __init__(self, net: nn.Module, attention_mask: Tensor, vocab_size: int | None = None) -> None:
        self.net, self.mask, self.vocab_size = net, attention_mask, vocab_size
        self.cache: Any = None
        self.read = 0
        self.positions = "position_ids" in inspect.signature(net.forward).parameters

    def __call__(self, input_ids: Tensor) -> Tensor:
        """Reads what is new."""
        new = input_ids[:, self.read :]
        if self.read:
            self.mask = torch.cat([self.mask, self.mask.new_ones(new.shape)], 1)
        arguments: dict[str, Any] = {"attention_mask": self.mask, "past_key_values": self.cache, "use_cache": True}
        if self.positions:  # padding on the left takes no position
            arguments["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        output = self.net(input_ids=new, **arguments)
        self.cache, self.read = output.past_key_values, input_ids.shape[1]
        logits: Tensor = output.logits[:, -1, : self.vocab_size]
        return logits


class Sampler:
    """Chooses the next token; a logits processor for ``generate``, after which the largest score is the choice.

    Args:
        uniform: One number in [0, 1) for each row and token, (B, N) float64.
        start: Length of the prompts.
        temperature: Divides the logits.
        top_k: Most probable tokens to choose among; None for all.
        top_p: Smallest set of most probable tokens with this probability to choose among; 1 for all.
        guide: Net to mix in, or None.
        mix: Its share: p = mix * p_guide + (1 - mix) * p_net.

    Attributes:
        log_probs: Log-probability of each choice under the distribution that it was drawn from, a list of (B,).
    """

    def __init__(
        self,
        uniform: Tensor,
        start: int,
        temperature: float,
        top_k: int | None,
        top_p: float,
        guide: Guide | None = None,
        mix: float = 0.0,
    ) -> None:
        self.uniform, self.start = uniform, start
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.guide, self.mix = guide, mix
        self.log_probs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, L) so far and logits (B, V) -> (B, V), 0 at the choice and -inf elsewhere."""
        probability = self.distribution(input_ids, scores)
        # A vocabulary of 128,000 has tokens that a float32 sum does not see.
        cumulative = probability.to(exact(scores.device)).cumsum(-1)
        number = self.uniform[:, input_ids.shape[1] - self.start].to(cumulative).unsqueeze(1)
        token = (cumulative <= number * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        self.log_probs.append(probability.gather(-1, token).squeeze(-1).log())
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)

    def distribution(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """What the next token is drawn from, (B, V) float32, each row with sum 1."""
        probability = (scores.float() / self.temperature).softmax(-1)
        if self.guide is not None and self.mix:
            size = scores.shape[-1]  # vocabularies may be padded to different sizes
            other = (self.guide(input_ids)[:, :size].float() / self.temperature).softmax(-1)
            other = nn.functional.pad(other, (0, size - other.shape[-1]))
            probability = self.mix * other + (1 - self.mix) * probability
        if self.top_k is not None and self.top_k < probability.shape[-1]:
            smallest = probability.topk(self.top_k, -1).values[:, -1:]
            probability = probability.masked_fill(probability < smallest, 0.0)
        if self.top_p < 1:
            ordered, order = probability.sort(-1, descending=True)
            ordered = ordered / ordered.sum(-1, keepdim=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p  # what comes before it is enough
            probability = probability.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)
        return probability / probability.sum(-1, keepdim=True)
