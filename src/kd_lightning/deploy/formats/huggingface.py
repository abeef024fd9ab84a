"""A folder that ``AutoModel`` of transformers loads."""

from __future__ import annotations

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
    with _without_bars():
        save(path)


def load(path: Path) -> Runner:
    """Runs the model with its head, as its configuration names it."""
    import transformers

    from kd_lightning.core.calls import TokenCall

    config = transformers.AutoConfig.from_pretrained(path)
    with _without_bars():
        net = getattr(transformers, config.architectures[0]).from_pretrained(path).eval()
    call = TokenCall()

    def run(inputs: Inputs) -> Tensor:
        assert isinstance(inputs, dict)
        with torch.no_grad():
            signals = call(net, inputs)
        answer: Tensor = signals["logits"] if "logits" in signals else signals["sentence_embedding"]
        return answer

    return run


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
)
