"""Calls: how a batch goes through a net and what signals come back. The seam between modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.core.asked import ask, logits_of
from kd_lightning.core.attention import AttentionReader, visible
from kd_lightning.core.language_net import (
    LanguageNet,
    fields,
    mean_over_tokens,
    positions,
    valid_tokens,
    without_wrapper,
)

Signals = dict[str, Any]
Batch = Mapping[str, Any]

_KEYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "segment_ids")
_PROJECTED = frozenset(("queries", "keys", "values", "attentions"))
_EMBEDDED = frozenset(("last_hidden_state", "sentence_embedding"))


class Call(Protocol):
    """A call names the signals that it gives and makes them.

    It may have ``listen(names, net)``: which of them are wanted, with dotted paths of modules that are tapped.
    """

    provides: tuple[str, ...]

    def __call__(self, net: nn.Module, batch: Batch) -> Signals:
        """Run the net on the batch."""
        ...

    def arguments(self, batch: Batch) -> Any:
        """What the net is called with: a tensor, or keyword tensors."""
        ...


class TensorCall:
    """Nets that take one tensor and return logits.

    Args:
        key: Batch key of the input, (B, ...).
    """

    provides = ("logits",)

    def __init__(self, key: str = "image") -> None:
        self.key = key

    def arguments(self, batch: Batch) -> Tensor:
        """The input, (B, ...)."""
        tensor: Tensor = batch[self.key]
        return tensor

    def __call__(self, net: nn.Module, batch: Batch) -> Signals:
        """Logits (B, C)."""
        return {"logits": logits_of(net, ask(net, batch[self.key]))}


class TokenCall:
    """Nets that take ``input_ids`` and ``attention_mask`` as keywords: those of transformers, and alike.

    Signals, made only when asked for (``logits`` alone until :meth:`listen` says otherwise; of a net without a head,
    ``last_hidden_state`` and ``sentence_embedding``):

    - ``logits`` (B, C) or (B, T, V), never shifted; without them and taps of the head, the head is not run
    - ``hidden_states`` list of (B, T, D), the embedding's output first, the last one after the final norm
    - ``last_hidden_state`` (B, T, D) after the final norm
    - ``sentence_embedding`` (B, D), the mean of it over the valid tokens
    - ``queries``, ``keys``, ``values`` lists of (B, T, D), one a layer, all heads side by side
    - ``attentions`` list of scores before the softmax (B, heads, T, T); -10,000 where a token may not look

    Positions are counted from the first valid token, so that padding may stand on either side. Rows of packed texts
    (``segment_ids``) are kept apart.

    Args:
        vocab_size: Width of the logits over a vocabulary: missing entries are -inf, rows beyond it (padding of the
            embedding matrix) are cut off. None leaves them.
        prefix: Before the names of the batch's keys (``teacher_`` for ``teacher_input_ids``), for a net with another
            tokenizer.
    """

    provides = (
        "logits",
        "hidden_states",
        "last_hidden_state",
        "sentence_embedding",
        "queries",
        "keys",
        "values",
        "attentions",
    )

    def __init__(self, vocab_size: int | None = None, prefix: str = "") -> None:
        self.vocab_size = vocab_size
        self.prefix = prefix
        self._names: frozenset[str] | None = None
        self._reader: AttentionReader | None = None
        self._known: LanguageNet | None = None

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """The keyword tensors of the batch."""
        own = self._own(batch)
        return {key: own[key] for key in _KEYS[:4] if key in own}

    def _own(self, batch: Batch) -> Batch:
        """The batch as the net's tokenizer sees it."""
        if not self.prefix:
            return batch
        if f"{self.prefix}input_ids" not in batch:
            there = ", ".join(batch)
            raise ValueError(f"call.prefix={self.prefix}: the batch has no {self.prefix}input_ids, only {there}.")
        return {key: batch[f"{self.prefix}{key}"] for key in _KEYS if f"{self.prefix}{key}" in batch}

    def listen(self, names: Iterable[str], net: nn.Module | None = None) -> None:
        """Say which signals are wanted; others are not made.

        Args:
            names: Signals, and paths of tapped modules, which must run.
            net: Where given, the hooks that the signals need are set on it now (before a net is compiled).
        """
        self._names = frozenset(names)
        if net is not None and self._names & _PROJECTED:
            self._reader_of(net)

    def __call__(self, net: nn.Module, batch: Batch) -> Signals:
        """Run the net and make the signals."""
        batch = self._own(batch)
        if self._known is None or self._known.net is not net:
            self._known = LanguageNet.of(net)
        known = self._known
        names = self._names
        if names is None:
            names = _EMBEDDED if known.headless else frozenset(("logits",))
        whole = known.base is known.inner or self._needs_head(names, known)
        module = net if whole else known.base
        arguments = self._arguments_of(known, whole, batch)
        each = "hidden_states" in names or (names & _EMBEDDED and whole and known.base is not known.inner)
        if each and known.config is not None:
            arguments["output_hidden_states"] = True
        reader = self._reader_of(net) if names & _PROJECTED else None
        if reader is None:
            return self._signals(names, ask(module, arguments), batch, net)
        reader.start()
        try:
            output = ask(module, arguments)
            layers = reader.take()
        finally:
            reader.stop()
        signals = self._signals(names, output, batch, net)
        for name, part in (("queries", "query"), ("keys", "key"), ("values", "value")):
            if name in names:
                signals[name] = [getattr(layer, part) for layer in layers]
        if "attentions" in names:
            masks = self._masks(known, reader.causal, batch)
            by_layer = [masks[known.windows.of_layer(i)] for i in range(len(layers))]
            signals["attentions"] = reader.scores(layers, by_layer, arguments.get("position_ids"))
        return signals

    def _needs_head(self, names: frozenset[str], known: LanguageNet) -> bool:
        """Whether a signal or a tapped module lies outside the base model."""
        paths = names.difference(self.provides)
        return "logits" in names or any(p != known.path and not p.startswith(f"{known.path}.") for p in paths)

    def _reader_of(self, net: nn.Module) -> AttentionReader:
        inner = without_wrapper(net)
        if self._reader is None or self._reader.net is not inner:
            if self._reader is not None:
                self._reader.remove()
            self._reader = AttentionReader(inner)
        return self._reader

    def _arguments_of(self, known: LanguageNet, whole: bool, batch: Batch) -> dict[str, Any]:
        """The keywords of the batch that the module takes, positions counted and packed texts kept apart."""
        taken = known.taken if whole else known.taken_by_base
        arguments: dict[str, Any] = {k: batch[k] for k in _KEYS[:4] if k in batch and k in taken}
        if known.token_types < 2:
            arguments.pop("token_type_ids", None)  # GPT-2 would add word embeddings for them
        if "position_ids" in taken and not known.counts_positions:
            arguments.setdefault("position_ids", positions(valid_tokens(batch), batch.get("segment_ids")))
        if "segment_ids" in batch:
            if "position_ids" not in arguments:
                raise ValueError(f"{type(known.inner).__name__} cannot take packed texts: set data.packing=false.")
            arguments["attention_mask"] = self._packed_mask(known, batch)
        if "use_cache" in taken:
            arguments["use_cache"] = False
        return arguments

    def _packed_mask(self, known: LanguageNet, batch: Batch) -> Tensor | dict[str, Tensor]:
        """A mask (B, 1, T, T) in the form that the attention takes: boolean, or added to the scores; one for every kind
        of layer where they see differently far."""
        masks = self._masks(known, known.causal, batch)
        for kind, mask in masks.items():
            # A row of padding sees itself: a softmax over nothing would be nan.
            mask = mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
            if getattr(known.config, "_attn_implementation", "") == "eager":
                lowest = torch.finfo(torch.float32).min
                mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, lowest)
            masks[kind] = mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @staticmethod
    def _masks(known: LanguageNet, causal: bool, batch: Batch) -> dict[str, Tensor]:
        """Who may attend to whom, for every kind of layer."""
        valid, segments = valid_tokens(batch), batch.get("segment_ids")
        try:
            return known.windows.masks(visible(valid, causal, segments), positions(valid, segments))
        except ValueError as error:
            raise ValueError(
                f"{type(known.inner).__name__} cannot keep the texts of a row apart, or give attention scores:"
                f" {error}. Set data.packing=false, or take a method on hidden states or logits."
            ) from None

    def _signals(self, names: frozenset[str], output: Any, batch: Batch, net: nn.Module) -> Signals:
        signals: Signals = {}

        def get(name: str) -> Any:
            value = getattr(output, name, None)
            if value is None:
                hint = " A net without a head (data.task=embedding) suits methods such as sbert." * (name == "logits")
                raise ValueError(
                    f"{type(net).__name__} gives no {name}: its output has {', '.join(fields(output))}.{hint}"
                )
            return value

        if "logits" in names:
            signals["logits"] = self._cut(output if isinstance(output, Tensor) else get("logits"))
        if "hidden_states" in names:
            signals["hidden_states"] = list(get("hidden_states"))
        if names & _EMBEDDED:
            last = getattr(output, "last_hidden_state", None)
            last = get("hidden_states")[-1] if last is None else last
            if "last_hidden_state" in names:
                signals["last_hidden_state"] = last
            if "sentence_embedding" in names:
                signals["sentence_embedding"] = mean_over_tokens(last, valid_tokens(batch))
        return signals

    def _cut(self, logits: Tensor) -> Tensor:
        if self.vocab_size is None or logits.shape[-1] == self.vocab_size:
            return logits
        missing = self.vocab_size - logits.shape[-1]
        return logits[..., : self.vocab_size] if missing < 0 else F.pad(logits, (0, missing), value=-torch.inf)
