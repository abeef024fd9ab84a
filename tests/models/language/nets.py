"""Tiny nets of every family, with a batch."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t
from torch import Tensor

VOCABULARY = 40
PAD = 1
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD}
_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
_NEOX = {k: v for k, v in _BERT.items() if k not in ("hidden_dropout_prob", "attention_probs_dropout_prob")}

ENCODERS: dict[str, Any] = {
    "bert": lambda: t.BertConfig(**_COMMON, **_BERT),
    "roberta": lambda: t.RobertaConfig(**_COMMON, **_BERT),
    "electra": lambda: t.ElectraConfig(**_COMMON, **_BERT, embedding_size=8),
    "distilbert": lambda: t.DistilBertConfig(
        **_COMMON, dim=16, n_layers=2, n_heads=4, hidden_dim=32, max_position_embeddings=32, dropout=0,
        attention_dropout=0,
    ),
}  # fmt: skip
DECODERS: dict[str, Any] = {
    "gpt2": lambda: t.GPT2Config(**_COMMON, **_GPT, bos_token_id=2, eos_token_id=2),
    "opt": lambda: t.OPTConfig(
        **_COMMON, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32, max_position_embeddings=32,
        word_embed_proj_dim=16, dropout=0,
    ),
    "llama": lambda: t.LlamaConfig(**_COMMON, **_LLAMA),
    "qwen3": lambda: t.Qwen3Config(**_COMMON, **_LLAMA, head_dim=4),
    "mistral": lambda: t.MistralConfig(**_COMMON, **_LLAMA, head_dim=4, sliding_window=3),
    "gpt_neox": lambda: t.GPTNeoXConfig(**_COMMON, **_NEOX),
}  # fmt: skip

MIXED: dict[str, Any] = {  # layers that see differently far, or keep what they have read in another way
    "gemma2": lambda: t.Gemma2Config(**_COMMON, **_LLAMA, head_dim=4, sliding_window=3),
    "llama4": lambda: t.Llama4TextConfig(
        **_COMMON, **_LLAMA, head_dim=4, intermediate_size_mlp=32, attention_chunk_size=3, num_local_experts=2,
        layer_types=["chunked_attention", "full_attention"], no_rope_layers=[1, 0],
    ),
    "qwen3_next": lambda: t.Qwen3NextConfig(
        **_COMMON, **_LLAMA, head_dim=4, layer_types=["linear_attention", "full_attention"], num_experts=2,
        num_experts_per_tok=1, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=4,
        linear_value_head_dim=4, moe_intermediate_size=8, shared_expert_intermediate_size=8,
    ),
    "recurrent_gemma": lambda: t.RecurrentGemmaConfig(
        **_COMMON, **_LLAMA, head_dim=4, attention_window_size=16, block_types=("recurrent", "attention"), lru_width=16
    ),
}  # fmt: skip


def net(family: str, task: str, attention: str = "eager") -> Any:
    """A net in eval mode, the same at every call."""
    auto = {"causal_lm": t.AutoModelForCausalLM, "masked_lm": t.AutoModelForMaskedLM, "embedding": t.AutoModel}
    config = (ENCODERS | DECODERS | MIXED)[family]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = auto.get(task, t.AutoModelForSequenceClassification).from_config(config, attn_implementation=attention)
        for name, parameter in built.named_parameters():  # biases and norms start at 0 and 1: nothing would show there
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
            elif "embed" in name or "wpe" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    return built.eval()


def texts(lengths: tuple[int, ...] = (7, 4, 5)) -> list[Tensor]:
    """Rows of tokens without padding."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in lengths]


def padded(rows: list[Tensor], side: str = "right", length: int | None = None) -> dict[str, Tensor]:
    """The rows as one batch, padded on this side."""
    width = length or max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}
