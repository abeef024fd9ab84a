"""Any model of timm or torchvision by name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from torch import nn

from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.registry import available, load_weights, near_names

SOURCES = ("timm", "torchvision")


def hub(
    name: str,
    num_classes: int,
    pretrained: bool = False,
    source: str | None = None,
    in_channels: int = 3,
    checkpoint: str | None = None,
    new_head: bool = False,
    **options: Any,
) -> nn.Module:
    """A classification model of timm or torchvision.

    Activations are set to work out of place, so that what is tapped is not overwritten.

    Args:
        name: Name in the library, for timm also with the tag of the weights (``resnet18.a1_in1k``). A prefix
            ``timm:`` or ``torchvision:`` chooses the library.
        num_classes: Width of the output. Where the pretrained weights are for others, the head is new.
        pretrained: Download the library's weights (or take them from its cache).
        source: ``timm`` or ``torchvision``; None looks in timm first.
        in_channels: Channels of the image; the first convolution is adapted, pretrained weights with it.
        checkpoint: Weights from a local file instead, for a machine that is offline.
        new_head: The checkpoint is of other classes: leave its head out.
        **options: Passed to the library (``img_size``, ``drop_path_rate``, ...).

    Raises:
        ValueError: Where the name is of no model or the checkpoint of another one.
        FileNotFoundError: Where weights cannot be downloaded, or the checkpoint does not exist.
    """
    source, name = _find(name, source)
    if checkpoint is not None and pretrained:
        raise ValueError("Give either pretrained=true or a checkpoint: a local file replaces the download.")
    build = _timm if source == "timm" else _torchvision
    net = build(name, num_classes, pretrained, in_channels, options)
    for module in net.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    if checkpoint is not None:
        head = anatomy(net).head
        if new_head and not head:
            raise ValueError(f"new_head: the head of {name} is not known. Load a checkpoint of {num_classes} classes.")
        load_weights(net, checkpoint, skip=[head] if new_head else [])
    return net


def names(source: str) -> list[str]:
    """Names of all classification models of a library."""
    if source == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return list(models.list_models(module=models))


def _find(name: str, source: str | None) -> tuple[str, str]:
    """Library and name in it."""
    prefix, colon, rest = name.partition(":")
    if colon and prefix in SOURCES:
        if source not in (None, prefix):
            raise ValueError(f"name={name} and source={source} contradict each other: leave one out.")
        source, name = prefix, rest
    if source not in (None, *SOURCES):
        raise ValueError(f"source={source}: choose timm or torchvision.")
    if source == "timm" and name.partition(":")[0] in ("hf-hub", "hf_hub", "local-dir"):
        return source, name
    for library in SOURCES if source is None else (source,):
        # timm's names may carry the tag of the weights after a dot.
        if (name.partition(".")[0] if library == "timm" else name) in names(library):
            return library, name
    known = {n for library in SOURCES if source in (None, library) for n in names(library)}
    where = source or "timm or torchvision"
    near = near_names(name, [*available(), *sorted(known)])
    raise ValueError(
        f"There is no model '{name}' in {where}.{near} Shipped with this framework (model@student=<name>):"
        f" {', '.join(available())}. All of timm: python -c 'import timm; print(timm.list_models())'"
    )


def _timm(name: str, num_classes: int, pretrained: bool, in_channels: int, options: dict[str, Any]) -> nn.Module:
    import timm

    with _downloads(name, pretrained):
        try:
            net: nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **options
            )
        except RuntimeError as error:
            if "pretrained" not in str(error):
                raise
            raise ValueError(f"{name}: {error} Leave out the tag, or see timm.list_pretrained('{name}*').") from None
    return net


def _torchvision(name: str, num_classes: int, pretrained: bool, in_channels: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        # Their auxiliary classifiers would make the output a tuple in training.
        options = {"aux_logits": False, "init_weights": True, **options}
    if not pretrained:
        net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    else:
        options.pop("init_weights", None)
        with _downloads(name, pretrained):
            net = models.get_model(name, weights="DEFAULT", **options)
        head = anatomy(net).head
        old = net.get_submodule(head) if head else None
        if isinstance(old, nn.Linear) and old.out_features != num_classes:
            net.set_submodule(head, nn.Linear(old.in_features, num_classes))
    if in_channels != 3:
        _replace_first_convolution(net, in_channels, pretrained)
    return net


def _replace_first_convolution(net: nn.Module, in_channels: int, pretrained: bool) -> None:
    """A first convolution for other channels; where it is trained, with the mean over colours, at the same scale."""
    path, old = next((p, m) for p, m in net.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        old.groups,
        old.bias is not None,
    )
    if pretrained:
        with torch.no_grad():
            mean = old.weight.mean(1, keepdim=True) * old.in_channels / in_channels
            new.weight.copy_(mean.expand_as(new.weight))
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
    net.set_submodule(path, new)


@contextmanager
def _downloads(name: str, pretrained: bool) -> Iterator[None]:
    """Says at once, and what to do, where weights can be had neither from the cache nor from the network."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    offline = constants.HF_HUB_OFFLINE
    if pretrained and not resolves(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True  # else it tries for most of a minute before it gives up
    try:
        yield
    except (OSError, URLError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"The pretrained weights of {name} cannot be downloaded ({type(error).__name__}: {error}). Without network,"
            " fetch the file elsewhere and give it: pretrained=false checkpoint=/path/to/weights.safetensors (or .pth;"
            " with new_head=true where it is of other classes)."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def resolves(url: str) -> bool:
    """Whether the host has an address; behind a proxy that cannot be known here, and is assumed."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True
