"""Small checkpoints as Hugging Face keeps them, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch

from kd_lightning.data.text.tokenizers import Bytes
from kd_lightning.models.language.tiny import tiny_bert, tiny_gpt


def bert(folder: Path, layers: int = 4) -> Path:
    """A masked language model that reads bytes, with its tokenizer."""
    return _saved(tiny_bert, "masked_lm", folder, layers)


def gpt(folder: Path, layers: int = 2) -> Path:
    """A causal one."""
    return _saved(tiny_gpt, "causal_lm", folder, layers)


def _saved(make, task, folder, layers):
    tokenizer = Bytes().build(lambda: iter(()), folder)
    torch.manual_seed(0)
    net = make(
        vocab_size=len(tokenizer),
        task=task,
        num_classes=None,
        layers=layers,
        width=32,
        heads=2,
        max_length=96,
        pad_token_id=tokenizer.pad_token_id,
    )
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(path: Path, count: int = 60) -> Path:
    """Plain text, a sentence a line."""
    path.write_text("".join(f"the {i} old ships carry {i * 7 % 13} loads of tin and some rain\n" for i in range(count)))
    return path
