"""Rules for the networks of timm, torchvision and transformers, from their structure alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from kd_lightning.models.anatomy.places import Anatomy
from kd_lightning.models.anatomy.traced import evenly, is_classifier, last_linear

# Blocks and stages that end in a sum or a norm, without activation.
LINEAR_ENDS = {
    *("InvertedResidual", "UniversalInvertedResidual", "_InvertedResidual", "DepthwiseSeparableConv", "EdgeResidual"),
    *("MBConv", "FusedMBConv", "GhostBottleneck", "ConvNeXtStage", "CNBlock"),
}
POOLS = {"AdaptiveAvgPool2d", "SelectAdaptivePool2d"}
POOLED_WITHOUT_MODULE = {"MobileNetV2": "features", "ShuffleNetV2": "conv5", "MNASNet": "layers"}
TRANSFORMERS_LISTS = {"layer", "layers", "h", "block", "blocks", "stages"}
TRANSFORMERS_STEMS = {"embeddings", "embedder", "wte", "embed_tokens", "embed_in", "word_embeddings"}


def propose(net: nn.Module, blocks: int) -> Anatomy | None:
    """The anatomy by the rule of the library that the network's class, or its nearest base, comes from; else None."""
    rules: dict[str, Callable[[nn.Module, int], Anatomy]] = {
        "timm": _timm,
        "torchvision": _torchvision,
        "transformers": _transformers,
    }
    for base in type(net).__mro__:
        if rule := rules.get(base.__module__.partition(".")[0]):
            return rule(net, blocks)
    return None


def maps_are_channels_last(net: nn.Module) -> bool:
    """Whether maps lie as (B, H, W, C), as in Swin transformers: they are not proposed as stages."""
    formats = [getattr(net, "output_fmt", ""), *(getattr(m, "input_fmt", "") for m in net.modules())]
    from_torchvision = type(net).__module__ == "torchvision.models.swin_transformer"
    return from_torchvision or any(str(getattr(f, "value", f)) == "NHWC" for f in formats)


def _assemble(net: nn.Module, stem: str, stages: Sequence[str], head: str, equal_blocks: bool = False) -> Anatomy:
    """All entries from the main ones; equal blocks have a residual stream, which no activation ends."""
    if maps_are_channels_last(net):
        stem, stages = "", []
    pairs = [(stage, "") if equal_blocks else _preact(net, stage) for stage in stages]
    preacts = tuple(preact for preact, _ in pairs)
    norms = tuple(norm for _, norm in pairs)
    return Anatomy(
        stem=stem,
        stages=tuple(stages),
        preacts=preacts if all(preacts) else (),
        preact_norms=norms if all(preacts) and all(norms) else (),
        embedding=f"{head}:in" if head else "",
        head=head,
        last_map=_last_map(net, head),
    )


def _timm(net: Any, blocks: int) -> Anatomy:
    paths = {id(module): path for path, module in net.named_modules()}
    features = getattr(net, "feature_info", None) or []
    infos = features if isinstance(features, list) else features.info
    infos = [info for info in infos if not isinstance(_get(net, info["module"]), nn.MaxPool2d | None)]
    names = [info["module"] for info in infos]
    stem = next((name for name in ("act1", "bn1", "stem", "patch_embed", "conv_stem") if hasattr(net, name)), "")
    equal_blocks = len(infos) > 1 and len({info["reduction"] for info in infos}) == 1
    if equal_blocks:
        names = evenly(names, blocks)
    elif names and (names[0] in (stem, "stem.conv", "conv_stem", "features.norm0") or type(net).__name__ == "VGG"):
        stem, *names = names
    heads = net.get_classifier() if hasattr(net, "get_classifier") else None
    # Distilled transformers have two; the first is the one for labels.
    head = heads[0] if isinstance(heads, tuple) else heads
    head_path = paths.get(id(head), "") if isinstance(head, nn.Linear) else ""
    return _assemble(net, stem, names, head_path, equal_blocks)


def _torchvision(net: nn.Module, blocks: int) -> Anatomy:
    children: dict[str, Any] = dict(net.named_children())
    stem, stages = next(iter(children), ""), []
    if "layer1" in children:
        stem, stages = "relu", [name for name in children if name.startswith("layer")]
    elif "stage2" in children:
        stages = [name for name in children if name.startswith("stage")]
    elif "encoder" in children:
        names = [f"encoder.layers.{name}" for name, _ in children["encoder"].layers.named_children()]
        stages = evenly(names, blocks)
    else:
        for name in ("trunk_output", "blocks"):
            if name in children:
                stages = [f"{name}.{child}" for child, _ in children[name].named_children()]
        for name in ("features", "layers"):
            if isinstance(children.get(name), nn.Sequential):
                stem, stages = _sequential_stages(name, children[name])
    return _assemble(net, stem, stages, last_linear(net).get("head", ""), equal_blocks="encoder" in children)


def _sequential_stages(path: str, sequence: nn.Module) -> tuple[str, list[str]]:
    """First child, and the children after which the resolution falls or the sequence ends."""
    children = list(sequence.named_children())
    falls = [_downsamples(child) for _, child in children]
    ends = [i - 1 for i in range(2, len(children)) if falls[i]]
    last = children[-1][1]
    if isinstance(last, nn.BatchNorm2d):  # DenseNet's, whose ReLU is no module and works in place
        ends.append(len(children) - 2)
    elif not isinstance(last, nn.MaxPool2d):
        ends.append(len(children) - 1)
    return f"{path}.{children[0][0]}", [f"{path}.{children[i][0]}" for i in ends]


def _downsamples(module: nn.Module) -> bool:
    for part in module.modules():
        if type(part).__name__.startswith("PatchMerging"):
            return True
        if isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and part.stride not in (1, (1, 1)):
            return True
    return False


def _transformers(net: Any, blocks: int) -> Anatomy:
    modules: dict[str, Any] = dict(net.named_modules())
    lists = [path for path, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) > 1]
    lists = [path for path in lists if path.rpartition(".")[2] in TRANSFORMERS_LISTS]
    decoders = [path for path in lists if "decoder" in path.split(".")]
    chosen = next(iter(decoders or lists), "")
    names = [f"{chosen}.{name}" for name, _ in modules[chosen].named_children()] if chosen else []
    stages = names if chosen.endswith("stages") else evenly(names, blocks)
    stem = next((path for path in modules if path.rpartition(".")[2] in TRANSFORMERS_STEMS), "")
    if getattr(net.config, "is_encoder_decoder", False):
        stem = ""  # encoder and decoder share one embedding, which is called twice
    base = getattr(net, "base_model_prefix", "")
    heads = [p for p, m in modules.items() if is_classifier(m) and not p.startswith(f"{base}.")]
    has_head = getattr(net, "base_model", net) is not net
    head = heads[-1] if heads and has_head else ""
    return _assemble(net, stem, stages, head, equal_blocks=not chosen.endswith("stages"))


def _get(net: nn.Module, path: str) -> nn.Module | None:
    return dict(net.named_modules()).get(path)


def _preact(net: nn.Module, stage: str) -> tuple[str, str]:
    """Tap of the stage before its last activation, and the batch norm in front of it; empty where unknown."""
    path, module = stage, _get(net, stage)
    while module is not None:
        if type(module).__module__ == "torch.nn.modules.activation":
            return f"{path}:in", _norm_before(net, path)
        for last in "32":
            if isinstance(getattr(module, f"act{last}", None), nn.Module):
                norm = getattr(module, f"bn{last}", None)
                return f"{path}.act{last}:in", f"{path}.bn{last}" if isinstance(norm, nn.BatchNorm2d) else ""
        if type(module).__name__ in LINEAR_ENDS and not type(module).__module__.endswith("shufflenetv2"):
            return stage, ""
        if type(module).__name__ == "ConvBnAct":
            return f"{path}.bn1.act:in", ""
        children = list(module.named_children())
        if not children or not (isinstance(module, nn.Sequential) or type(module).__name__ == "RegStage"):
            return "", ""
        path, module = f"{path}.{children[-1][0]}", children[-1][1]
    return "", ""


def _norm_before(net: nn.Module, path: str) -> str:
    """The batch norm right before a submodule, if both stand in a sequence."""
    parent, _, name = path.rpartition(".")
    sequence = _get(net, parent)
    names = [child for child, _ in sequence.named_children()] if isinstance(sequence, nn.Sequential) else [name]
    index = names.index(name)
    before = f"{parent}.{names[index - 1]}" if index else ""
    return before if isinstance(_get(net, before), nn.BatchNorm2d) else ""


def _last_map(net: nn.Module, head: str) -> str:
    """Input of the global average pool, if nothing but dropout and flattening stands between it and the head."""
    order = [(path, module) for path, module in net.named_modules() if path]
    pools = [path for path, module in order if type(module).__name__ in POOLS and not path.endswith("pool.pool")]
    if not head:
        return ""
    if not pools:
        return (
            POOLED_WITHOUT_MODULE.get(type(net).__name__, "") if type(net).__module__.startswith("torchvision") else ""
        )
    pool = pools[-1]
    names = [path for path, _ in order]
    between = [m for p, m in order[names.index(pool) + 1 : names.index(head)] if not p.startswith(f"{pool}.")]
    harmless = (nn.Identity, nn.Dropout, nn.Flatten, nn.Sequential)
    module = _get(net, pool)
    # torchvision permutes to (B, C, H, W) before its pool, timm pools as the map lies.
    laid_out = isinstance(module, nn.AdaptiveAvgPool2d) or not maps_are_channels_last(net)
    average = getattr(module, "pool_type", "avg") == "avg" and laid_out
    return f"{pool}:in" if average and all(isinstance(m, harmless) for m in between) else ""
