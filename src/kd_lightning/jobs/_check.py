"""Refuse a misspelt argument before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from kd_lightning.explain import near

_INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a ``_target_``, and its path."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key], f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from _targets(item, f"{path}[{i}]")


def check_targets(cfg: DictConfig) -> None:
    """Refuse a misspelt argument before anything is trained.

    Raises:
        ValueError: Where a ``_target_`` cannot be imported or does not take an argument; names both.
    """
    for path, node in _targets(cfg):
        try:
            target = get_object(node._target_)
            parameters = inspect.signature(target).parameters
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{path}: cannot import {node._target_!s}: {error}") from None
        except (TypeError, ValueError):  # built-in without a signature
            continue
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        for key in set(node) - _INSTANTIATE_KEYS - set(parameters):
            raise ValueError(f"{path}: {node._target_!s} takes no argument '{key}'. {near(str(key), list(parameters))}")
