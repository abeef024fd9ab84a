"""A folder that ``AutoModel`` of transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.deploy.inputs import Inputs, TextNet

USE = """\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{file}")
net = AutoModel.from_pretrained("{file}")  # the body; AutoModelFor... of the task loads the head too"""


def write(net: nn.Module, examples: Inputs, path: Path) -> None:
    """Weights and configuration; the exporter adds the tokenizer.

    Raises:
        ValueError: The student is no model of transformers.
    """
    inner = net.net if isinstance(net, TextNet) else net
    save: Any = getattr(inner, "save_pretrained", None)
    if save is None:
        raise ValueError(
            f"export.formats: a {type(inner).__name__} is no model of transformers, so there is no Hugging Face folder"
            " of it; take onnx or torch_export."
        )
    save(path)


def load(path: Path) -> Callable[[Inputs], Tensor]:
    """Runs the model with its head, as its configuration names it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    net = getattr(transformers, config.architectures[0]).from_pretrained(path).eval()

    def run(inputs: Inputs) -> Tensor:
        from kd_lightning.core.calls import TokenCall

        assert isinstance(inputs, dict)
        call = TokenCall()
        with torch.no_grad():
            signals = call(net, inputs)
        answer: Tensor = signals["logits"] if "logits" in signals else signals["sentence_embedding"]
        return answer

    return run
