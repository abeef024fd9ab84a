"""Rules for the networks of timm, torchvision and transformers, from their structure alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from kd_lightning.models._anatomy_traced import evenly, is_classifier, last_linear
from kd_lightning.models.anatomy import Anatomy

# Blocks and stages that end in a sum or a norm, without activation.
LINEAR_ENDS = {
    *("InvertedResidual", "DepthwiseSeparableConv", "EdgeResidual", "MBConv", "FusedMBConv", "_InvertedResidual"),
    *("ConvNeXtStage", "CNBlock", "SwinTransformerStage", "SwinTransformerBlock", "SwinTransformerBlockV2"),
    *("Block", "EncoderBlock", "MixerBlock", "ResBlock"),
}
POOLS = {"AdaptiveAvgPool2d", "SelectAdaptivePool2d"}
POOLED_WITHOUT_MODULE = {"MobileNetV2": "features", "ShuffleNetV2": "conv5", "MNASNet": "layers"}
TRANSFORMERS_LISTS = {"layer", "layers", "h", "block", "blocks", "stages"}
TRANSFORMERS_STEMS = {"embeddings", "embedder", "wte", "embed_tokens", "word_embeddings"}


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


def _assemble(net: nn.Module, stem: str, stages: Sequence[str], head: str) -> Anatomy:
    pairs = [_preact(net, stage) for stage in stages]
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
    infos = [info for info in infos if not isinstance(_get(net, info["module"]), nn.MaxPool2d)]
    names = [info["module"] for info in infos]
    stem = next((name for name in ("act1", "bn1", "stem", "patch_embed", "conv_stem") if hasattr(net, name)), "")
    if len(infos) > blocks and len({info["reduction"] for info in infos}) == 1:
        names = evenly(names, blocks)
    elif names and (names[0] in (stem, "stem.conv", "conv_stem", "features.norm0") or type(net).__name__ == "VGG"):
        stem, *names = names
    heads = net.get_classifier() if hasattr(net, "get_classifier") else None
    # Distilled transformers have two; the first is the one for labels.
    head = heads[0] if isinstance(heads, tuple) else heads
    return _assemble(net, stem, names, paths.get(id(head), "") if isinstance(head, nn.Linear) else "")


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
    return _assemble(net, stem, stages, last_linear(net).get("head", ""))


def _sequential_stages(path: str, sequence: nn.Module) -> tuple[str, list[str]]:
    """First child, and the children after which the resolution falls or the sequence ends."""
    children = list(sequence.named_children())
    falls = [_downsamples(child) for _, child in children]
    ends = [i - 1 for i in range(2, len(children)) if falls[i]]
    if not isinstance(children[-1][1], nn.MaxPool2d):
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
    found = _assemble(net, stem, stages, head)
    if chosen.endswith("stages"):
        return found
    return Anatomy(stem, found.stages, found.stages, (), found.embedding, head, "")


def _get(net: nn.Module, path: str) -> nn.Module | None:
    return dict(net.named_modules()).get(path)


def _preact(net: nn.Module, stage: str) -> tuple[str, str]:
    """Tap of the stage before its last activation, and the batch norm in front of it; empty where unknown."""
    path, module, before = stage, _get(net, stage), ("", None)
    while module is not None:
        if type(module).__module__ == "torch.nn.modules.activation":
            return f"{path}:in", before[0] if isinstance(before[1], nn.BatchNorm2d) else ""
        for last in "32":
            if isinstance(getattr(module, f"act{last}", None), nn.Module):
                norm = getattr(module, f"bn{last}", None)
                return f"{path}.act{last}:in", f"{path}.bn{last}" if isinstance(norm, nn.BatchNorm2d) else ""
        if type(module).__name__ in LINEAR_ENDS:
            return stage, ""
        if type(module).__name__ == "ConvBnAct":
            return f"{path}.bn1.act:in", ""
        children = list(module.named_children())
        if not children or not (isinstance(module, nn.Sequential) or type(module).__name__ == "RegStage"):
            return "", ""
        if len(children) > 1:
            before = (f"{path}.{children[-2][0]}", children[-2][1])  # type: ignore[assignment]
        path, module = f"{path}.{children[-1][0]}", children[-1][1]
    return "", ""


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
    average = getattr(_get(net, pool), "pool_type", "avg") == "avg"
    return f"{pool}:in" if average and all(isinstance(m, harmless) for m in between) else ""
