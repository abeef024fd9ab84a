"""Names of the models that are shipped, and weights from files."""

from __future__ import annotations

import argparse
import codecs
import difflib
import pickle
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_lightning.config.conf_dir import conf_dir

# Where training code wraps the weights, and what wrapping modules put before their names.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "model_state", "student", "weights")
# What stands in the middle of names too: of compiled, sharded and recomputed modules.
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
PREFIXES = ("", "module.", "_orig_mod.", "net.", "model.", "student.net.", "roles.trainable.student.net.")


def available() -> list[str]:
    """Names for ``model@student=<name>``, sorted."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def near_names(name: str, names: Iterable[str]) -> str:
    """``Did you mean ...?`` with names like this one, or an empty string."""
    near = difflib.get_close_matches(name, list(names), n=5, cutoff=0.6)
    return f" Did you mean {', '.join(near)}?" if near else ""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, or from one that ``torch.load(weights_only=True)`` reads.

    Wrappings such as ``{"state_dict": ...}`` and ``{"model": ...}`` are taken off.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is damaged, needs code to be executed, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weights at {path}: give a .safetensors file or a PyTorch checkpoint.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a complete safetensors file: {error}. Copy or download it again."
            ) from None
    _refuse_text(path)
    try:
        with torch.serialization.safe_globals(harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and plain values, and reading it could run code, so it is refused."
            " If you trust it, save its state_dict only: safetensors.torch.save_file(net.state_dict(), 'x.safetensors')"
            f" ({str(error).splitlines()[0]})"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no complete PyTorch checkpoint: {error}") from None
    return _unwrap(content, path)


def harmless() -> list[Any]:
    """Types of plain values that checkpoints hold beside their tensors: reading them runs no code of a file."""
    inner: Any = np
    multiarray = (inner._core if hasattr(np, "_core") else inner.core).multiarray
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    old = [(multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, *old, np.dtype, *kinds, (codecs.encode, "_codecs.encode")]


def _refuse_text(path: Path) -> None:
    """Say of a text that it is one."""
    with path.open("rb") as file:
        start = file.read(200)
    try:
        text = start.decode("ascii").strip()
    except UnicodeDecodeError:
        return
    if text and (text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()):
        pointer = " It points to a file of git lfs: git lfs pull fetches that." if "git-lfs" in text else ""
        raise ValueError(
            f"{path} is a text, no checkpoint; it begins {text.splitlines()[0][:60]!r}.{pointer} Give a .safetensors"
            " file, a PyTorch checkpoint, or a run folder."
        )


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} holds no weights: a mapping of names to tensors was expected, found {found}.")
    return tensors


def load_weights(net: nn.Module, path: str | Path, skip: Collection[str] = ()) -> None:
    """Load weights into a net; every tensor must have its place, and every place its tensor.

    Args:
        net: The net, changed in place.
        path: See :func:`read_weights`. Prefixes of wrapping modules (``module.``, ``net.``, ``student.net.``) are
            taken off.
        skip: Paths of submodules that keep their own weights (``["fc"]``: a new head for other classes).

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file cannot be read or is of another model; names the keys that differ.
    """
    own = net.state_dict()
    state = _without_prefix(read_weights(path), own)

    def skipped(key: str) -> bool:
        return any(key.startswith(f"{module}.") for module in skip)

    state = _with_tied(state, own)
    missing = [key for key in own if key not in state and not skipped(key)]
    unexpected = [key for key in state if key not in own and not skipped(key)]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape and not skipped(key)
    ]
    if missing or unexpected or shapes:
        problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        listed = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems if keys)
        raise ValueError(
            f"{path} holds the weights of another model than this {type(net).__name__} ({listed}). Give the checkpoint"
            " of this model, or choose the model (and num_classes) that the checkpoint is of."
        )
    kept = {key: value for key, value in own.items() if skipped(key)}
    net.load_state_dict({key: state[key] for key in own if key not in kept} | kept)


def load_body(net: nn.Module, path: str | Path) -> None:
    """Load what two models of one body share: into a classifier from a language model, into that from an encoder.

    Args:
        net: A model of transformers, changed in place; its head stays as it is.
        path: See :func:`read_weights`; weights of the same body under any head, or of the body alone.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: The net has no body that is known, or that of the file is another one.
    """
    prefix = getattr(net, "base_model_prefix", None)
    if not prefix:
        raise ValueError(f"{type(net).__name__} is no model of transformers: its body is not known. Give `checkpoint`.")
    body: nn.Module = net.base_model  # type: ignore[assignment]
    state = {key.removeprefix(f"{prefix}."): value for key, value in read_weights(path).items()}
    own = body.state_dict()
    # A pooler is part of the head: models without one are not trained to have it.
    wanted = [key for key in own if not key.startswith("pooler.")]
    missing = [key for key in wanted if key not in state]
    shapes = [key for key in wanted if key in state and state[key].shape != own[key].shape]
    if missing or shapes:
        problems = (("missing", missing), ("of another shape", shapes))
        listed = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems if keys)
        raise ValueError(f"{path} holds another body than this {type(net).__name__} ({listed}).")
    body.load_state_dict({key: state.get(key, value) if key in wanted else value for key, value in own.items()})


def savable_state(net: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What goes into a safetensors file: of tensors that are one in the net (tied embedding and head), the first.

    Args:
        net: The net; says what is tied.
        state: A state of it, also one whose tied tensors were copied apart; None for its own.

    Returns:
        Contiguous tensors on the CPU, in the order of the net's ``state_dict``; :func:`load_state` and
        :func:`load_weights` read them back.
    """
    own = net.state_dict()
    values = own if state is None else state
    first = [names[0] for names in _tied(own)]
    return {name: values[name].detach().cpu().contiguous() for name in first}


def load_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``net.load_state_dict`` for what :func:`savable_state` gave: tied tensors are filled in.

    Raises:
        RuntimeError: The state is of another net.
    """
    net.load_state_dict(_with_tied(state, net.state_dict()))


def _tied(own: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the state, those of one and the same tensor together."""
    names_of: dict[Any, list[str]] = {}
    for name, value in own.items():
        same = value.numel() > 0 and not value.is_meta and type(value) in (Tensor, nn.Parameter)
        key = (value.data_ptr(), value.shape, value.stride()) if same else name
        names_of.setdefault(key, []).append(name)
    return list(names_of.values())


def _with_tied(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the names that are missing of tensors which are one in the net."""
    filled = dict(state)
    for names in _tied(own):
        there = next((state[name] for name in names if name in state), None)
        if there is not None:
            filled |= {name: there for name in names if name not in state}
    return filled


def _without_prefix(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The state under the prefix, or several in a row, that gives most of the net's names.

    Under a prefix, other entries of the file belong to other parts of a larger whole and are left out.
    """
    for name in INSIDE:
        state = {key.replace(name, ""): value for key, value in state.items()}
    prefixes = dict.fromkeys(prefix for prefix in PREFIXES if prefix not in INSIDE)
    for known in list(prefixes):
        longer = [known] if known else []
        while longer:  # module.model., and so on
            found = longer.pop()
            if any(key.startswith(found) for key in state):
                prefixes[found] = None
                longer += [found + more for more in PREFIXES if more and len(found) < 60]
    names = set(own)

    def stripped(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}

    best = max(prefixes, key=lambda prefix: len(names & stripped(prefix).keys()))
    return stripped(best)


def _some(items: list[str], limit: int = 5) -> str:
    items = sorted(items, key=lambda key: key.endswith("num_batches_tracked"))  # the least telling ones last
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
