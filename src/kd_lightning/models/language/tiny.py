"""BERT and GPT-2 of any size from numbers: no hub, no download."""

from __future__ import annotations

from torch import nn

from kd_lightning.data.targets import NEXT_TOKENS, target_of
from kd_lightning.models.language.tasks import build, outputs


def tiny_bert(
    vocab_size: int,
    task: str = "classification",
    num_classes: int | None = None,
    layers: int = 2,
    width: int = 128,
    heads: int = 2,
    max_length: int = 128,
    pad_token_id: int = 0,
    dropout: float = 0.1,
    attention: str = "sdpa",
) -> nn.Module:
    """An encoder with BERT's architecture and random weights, feed-forward layers four times the width.

    Args:
        vocab_size: Tokens of the tokenizer.
        task: ``classification``, ``regression``, ``token_classification``, ``masked_lm``, ``causal_lm`` or
            ``embedding``.
        num_classes: Classes or tags; for the first and third task only.
        layers: Transformer layers.
        width: Width of the hidden states.
        heads: Attention heads, which divide the width.
        max_length: Longest text in tokens.
        pad_token_id: Token of padding.
        dropout: Of hidden states and attention.
        attention: ``sdpa`` or ``eager``.

    Returns:
        The net of transformers, which takes ``input_ids`` and ``attention_mask`` as keywords.

    Raises:
        ValueError: The heads do not divide the width, or the task is unknown.
    """
    from transformers import BertConfig

    _check(width, heads)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        pad_token_id=pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        is_decoder=target_of(task) is NEXT_TOKENS,
        **outputs(task, num_classes),
    )
    net: nn.Module = build(task, config, attn_implementation=attention)
    return net


def tiny_gpt(
    vocab_size: int,
    task: str = "causal_lm",
    num_classes: int | None = None,
    layers: int = 2,
    width: int = 128,
    heads: int = 2,
    max_length: int = 256,
    pad_token_id: int = 0,
    dropout: float = 0.1,
    attention: str = "sdpa",
) -> nn.Module:
    """A decoder with GPT-2's architecture and random weights; the head shares the weights of the embedding.

    Args:
        vocab_size: Tokens of the tokenizer.
        task: ``causal_lm``, ``classification``, ``regression``, ``token_classification`` or ``embedding``.
        num_classes: Classes or tags, where there are.
        layers: Transformer layers.
        width: Width of the hidden states.
        heads: Attention heads, which divide the width.
        max_length: Longest text in tokens.
        pad_token_id: Token of padding.
        dropout: Of embeddings, hidden states and attention.
        attention: ``sdpa`` or ``eager``.

    Returns:
        The net of transformers, which takes ``input_ids`` and ``attention_mask`` as keywords.

    Raises:
        ValueError: The heads do not divide the width, or the task is unknown or none of a decoder.
    """
    from transformers import GPT2Config

    _check(width, heads)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=max_length,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
        **outputs(task, num_classes),
    )
    net: nn.Module = build(task, config, attn_implementation=attention)
    return net


def _check(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"heads={heads} must divide width={width}.")
