"""A folder that ``AutoModel`` of transformers loads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.core.quiet import quiet
from kd_lightning.deploy.formats.base import Format, Runner
from kd_lightning.deploy.inputs import Inputs, TextNet

USE = """\
import torch
from transformers import {auto}

net = {auto}.from_pretrained("{file}")
with torch.no_grad():
    logits = net(**{{name: torch.from_numpy(inputs[name]) for name in {names}}}){answer}.numpy()"""


def describe(net: nn.Module, class_names: Sequence[str], tokenizer: Any) -> None:
    """Write into a net's configuration what only the data knows: names of classes, and where a text ends."""
    config = getattr(net, "config", None)
    if config is None or not hasattr(net, "save_pretrained"):
        return
    if class_names and len(class_names) == getattr(config, "num_labels", None):
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: i for i, name in enumerate(class_names)}
    generation = getattr(net, "generation_config", None)
    for one in [config, *([] if generation is None else [generation])]:
        for key in ("bos_token_id", "eos_token_id"):
            there, own = getattr(one, key, None), getattr(tokenizer, key)
            # A list that has it, as of models of chats, says of more tokens that they end a text.
            if there is None or (generation is not None and not (isinstance(there, list) and own in there)):
                setattr(one, key, own)
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id


def against(net: nn.Module) -> str | None:
    """Only models of transformers are told by a configuration."""
    return None if hasattr(_inner(net), "save_pretrained") else "it is no model of transformers"


def write(net: nn.Module, examples: Inputs, path: Path) -> None:
    """Weights and configuration; the exporter adds the tokenizer."""
    inner: Any = _inner(net)
    with _without_bars():
        inner.save_pretrained(path)


def load(path: Path) -> Runner:
    """Runs the model with its head, as its configuration names it."""
    import transformers

    from kd_lightning.core.calls import TokenCall

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    kind = getattr(transformers, config.architectures[0], None)
    if not inspect.isclass(kind) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(f"{path}: config.json names {config.architectures[0]}, which is no model of transformers.")
    with _without_bars():
        net: Any = kind.from_pretrained(path)
        net.eval()
    call = TokenCall()

    def run(inputs: Inputs) -> Tensor:
        assert isinstance(inputs, dict)
        with torch.no_grad():
            signals = call(net, inputs)
        answer: Tensor = signals["logits"] if "logits" in signals else signals["sentence_embedding"]
        return answer

    return run


def _inner(net: nn.Module) -> nn.Module:
    return net.net if isinstance(net, TextNet) else net


@contextmanager
def _without_bars() -> Iterator[None]:
    """Neither bars nor warnings of transformers."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with quiet("transformers"):
            yield
    finally:
        if before:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


HUGGINGFACE = Format(
    name="huggingface",
    file="huggingface",
    title="Hugging Face",
    write=write,
    load=load,
    use=USE,
    takes=("text",),
    with_tokenizer=True,
    packages=("transformers",),
    place=6,
    against=against,
)
