"""Any model of transformers, by name or from a local folder, as teacher or student."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_lightning.core.quiet import quiet
from kd_lightning.files.packages import resolve_name
from kd_lightning.models.hub import resolves
from kd_lightning.models.language.lora import add_lora
from kd_lightning.models.language.quantise import quantised, settings
from kd_lightning.models.language.stack import keep_layers
from kd_lightning.models.language.tasks import build, outputs, without_pooler
from kd_lightning.models.registry import load_weights
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.registry import find_task

log = logging.getLogger("kd_lightning")


def hf(
    name: str,
    task: str = "classification",
    num_classes: int | None = None,
    pretrained: bool = True,
    checkpoint: str | None = None,
    layers: Sequence[int] | None = None,
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
    lora: Mapping[str, Any] | None = None,
    quantise: str | None = None,
    dtype: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model of transformers for a task.

    Args:
        name: Name on the hub, a folder with ``config.json`` (and weights), or ``package:<package>/<folder>``.
        task: ``classification``, ``regression``, ``token_classification``, ``masked_lm``, ``causal_lm`` or
            ``embedding``.
        num_classes: Classes or tags, where there are; a pretrained head of another width is replaced by a new one.
        pretrained: With its weights; False for random ones.
        checkpoint: Weights of the same task from a local file on top.
        layers: Keep copies of these layers of the stack, counted from 0 (``[0, 4, 8]``); the width stays.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        gradient_checkpointing: Recompute instead of keep (never reentrant, which would cut off taps).
        lora: ``{r, alpha, dropout, targets}``: freeze all but low-rank adapters and the head of labels.
        quantise: ``int8`` or ``nf4``, for a frozen teacher.
        dtype: ``float32``, ``bfloat16`` or ``float16`` of the weights; None for that of the checkpoint, in float32
            where a role learns.
        config: Fields of its configuration to set (``{hidden_dropout_prob: 0}``); none that pretrained weights do not
            fit.

    Raises:
        FileNotFoundError: Neither a folder nor on the hub, or no network.
        ValueError: An argument that does not fit the model.
    """
    name = resolve_name(name)
    if lora is not None and quantise is not None and quantise != "nf4":
        raise ValueError(f"lora on quantise={quantise} cannot be trained: leave one out, or take quantise=nf4.")
    configuration = _configuration(name, {**outputs(task, num_classes), **(config or {})})
    kind = _dtype(dtype)
    if pretrained:
        extra = settings(quantise)
        own = "auto" if kind is None and lora is None else kind or torch.float32
        net: Any = _pretrained(name, task, configuration, attn_implementation=attention, dtype=own, **extra)
    else:
        net = build(task, configuration, attn_implementation=attention).to(kind or torch.float32)
    if layers is not None:
        keep_layers(net, layers)
    if checkpoint is not None:
        load_weights(net, checkpoint)
    if quantise is not None:
        net = quantised(net, quantise)
    if lora is not None:
        add_lora(net, **lora)
    if gradient_checkpointing:
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            net.enable_input_require_grads()
    built: nn.Module = net
    return built


def _dtype(name: str | None) -> torch.dtype | None:
    kinds = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in kinds:
        raise ValueError(f"dtype={name}: choose float32, bfloat16 or float16.")
    return kinds[name]


def _configuration(name: str, fields: Mapping[str, Any]) -> Any:
    """The configuration with these fields.

    Raises:
        FileNotFoundError: Where there is none.
        ValueError: A field that the configuration does not have.
    """
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder that save_pretrained wrote.")
    if folder.is_dir() and (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        raise ValueError(f"{folder} holds adapters only: merge them into {base} first (peft: merge_and_unload).")
    with _hub(name):
        configuration = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else name, trust_remote_code=False)
    for key, value in fields.items():
        if key != "problem_type" and not hasattr(configuration, key):
            raise ValueError(f"{type(configuration).__name__} has no field '{key}' (config={{{key}: {value}}}).")
        setattr(configuration, key, value)
    if configuration.pad_token_id is None:
        # Padding is masked; only the index of the last token of a text is looked up by it.
        configuration.pad_token_id = getattr(configuration, "eos_token_id", None) or 0
    return configuration


def _pretrained(name: str, task: str, configuration: Any, **options: Any) -> Any:
    import transformers

    auto: Any = getattr(transformers, find_task(task).head)
    if type(configuration) not in auto._model_mapping:
        raise ValueError(f"{name} ({type(configuration).__name__}) has no net for task={task}.")
    options |= without_pooler(task, auto._model_mapping[type(configuration)])
    folder = Path(name).expanduser()
    if folder.is_dir():  # a second's work: only a download is worth a bar
        without_bar: Any = transformers.utils.logging.disable_progress_bar
        without_bar()
    with _hub(name), quiet("transformers"):  # what it reports of new weights is said below
        net, loaded = auto.from_pretrained(
            str(folder) if folder.is_dir() else name,
            config=configuration,
            ignore_mismatched_sizes=True,  # a head of other labels is replaced
            output_loading_info=True,
            **options,
        )
    _check_loaded(name, net, find_task(task), loaded)
    return net


def _check_loaded(name: str, net: Any, task: Task, loaded: Mapping[str, Any]) -> None:
    """Say which weights are new, and refuse those that nobody has asked for.

    Raises:
        ValueError: The configuration is set so that weights of the checkpoint have no place, or another shape.
    """
    prefix = f"{net.base_model_prefix}."
    reshaped = {key: (tuple(there), tuple(here)) for key, there, here in loaded["mismatched_keys"]}
    new = {*loaded["missing_keys"], *reshaped}
    body = net.base_model is net

    def of_body(key: str) -> bool:
        return (body or key.startswith(prefix)) and not key.removeprefix(prefix).startswith("pooler.")

    wrong = sorted(key for key in new if of_body(key) or (key in reshaped and task.width == "vocab_size"))
    parts = {part for part, _ in net.base_model.named_children()}
    there = (key for key in loaded["unexpected_keys"] if of_body(key))  # heads of other tasks may be left out
    lost = sorted(key for key in there if key.removeprefix(prefix).partition(".")[0] in parts)
    if wrong or lost:
        shapes = {key: f"{key} {there} became {here}" for key, (there, here) in reshaped.items()}
        listed = ", ".join(shapes.get(key, key) for key in (wrong or lost)[:5])
        raise ValueError(
            f"The checkpoint {name} does not fill this {type(net).__name__}: {'new' if wrong else 'left out'} would be"
            f" {listed}. Leave out the fields of net.config that change shapes and layers (vocab_size is that of the"
            " checkpoint; net.layers=[...] chooses layers; call.vocab_size cuts logits), or take net.pretrained=false."
        )
    if new:
        log.warning(f"{name}: new weights, which have to be trained: {', '.join(sorted(new))}")


@contextmanager
def _hub(name: str) -> Iterator[None]:
    """Says what to do where the hub cannot be reached; tries it only where it has an address."""
    from huggingface_hub import constants

    if Path(name).expanduser().is_dir():
        yield
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"There is no folder {name}: give one that save_pretrained wrote.")
    offline = constants.HF_HUB_OFFLINE
    if not resolves(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True  # else it tries for most of a minute before it gives up
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"The model {name} is neither a folder here, nor in the cache {constants.HF_HOME}, nor can it be downloaded"
            f" ({str(error).splitlines()[0]}). Without network, fetch it elsewhere and give the folder that holds"
            " config.json and model.safetensors: name=/path/to/folder."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
