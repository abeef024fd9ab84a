"""Errors in the user's words: what is wrong, what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from kd_lightning.config import schema

_USER_ERRORS = (
    YAMLError,
    ValueError,
    FileNotFoundError,
    PermissionError,
    ModuleNotFoundError,
    HydraException,
    OmegaConfBaseException,
)
_HINTS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), " (is the disk full?)")
_HINTS |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), " (is the folder yours to write to?)")
# Raised by libraries that are not imported here.
_USER_ERROR_NAMES = {"NonFiniteLossError", "LostProcessError", "UsageError", "MisconfigurationException"}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def near(name: str, known: list[str]) -> str:
    """ "Did you mean ...?" where a known name is near, else the list."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}."


def _unknown_key(error: OmegaConfBaseException) -> str:
    parent = getattr(error, "parent_node", None)
    key, full = str(error.key), str(error.full_key or error.key)
    known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
    elsewhere = _elsewhere(parent, key) if isinstance(parent, DictConfig) else []
    hint = f"Did you mean {' or '.join(elsewhere)}?" if elsewhere else near(key, known) if known else ""
    return f"Unknown key '{full}'. {hint} (To add a new argument on purpose, write +{full}=... .)"


def _elsewhere(node: Any, key: str) -> list[str]:
    """Where in the whole configuration a key of this name stands, the shortest paths first."""
    root = node
    while root._get_parent() is not None:
        root = root._get_parent()
    found: list[str] = []
    places: list[tuple[str, Any]] = [("", OmegaConf.to_container(root))]
    while places:
        path, inner = places.pop()
        for name, value in inner.items():
            if isinstance(value, dict) and name != "hydra":
                places.append((f"{path}{name}.", value))
            elif name == key:
                found.append(f"{path}{name}")
    return sorted(found, key=lambda one: (one.count("."), one))[:4]


def _unknown_field(text: str) -> str | None:
    """The same for a key in a YAML file, of which Hydra keeps only the text of the error."""
    found = re.search(r"Key '\w+' not in '(\w+)'\s+full_key: ([\w.]+)", text)
    node = getattr(schema, found[1], None) if found else None
    if found is None or not dataclasses.is_dataclass(node):
        return None
    known = [field.name for field in dataclasses.fields(node)]
    return f"Unknown key '{found[2]}'. {near(found[2].rpartition('.')[2], known)}"


def _missing_choice(error: MissingConfigException) -> str | None:
    group, _, name = str(error.missing_cfg_file or "").removesuffix(".yaml").rpartition("/")
    options = list(error.options or [])
    return f"Unknown choice {group}={name}. {near(name, options)}" if options and group else None


def explain(error: BaseException) -> str | None:
    """One paragraph for an error that the user can mend; None for a fault of the program, which gets its trace."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.key is not None:
            return f"Error: {_unknown_key(cause)}"
        if isinstance(cause, MissingConfigException) and (text := _missing_choice(cause)):
            return f"Error: {text}"
        if isinstance(cause, HydraException) and (text := _unknown_field(str(cause))):
            return f"Error: {text}"
    inner = next((c for c in chain if not isinstance(c, InstantiationException)), error)
    if isinstance(inner, OSError) and inner.errno is not None and not isinstance(inner, FileNotFoundError):
        return f"Error: {inner.strerror}: {inner.filename or ''}{_HINTS.get(inner.errno, '')}"
    if isinstance(inner, _USER_ERRORS) or type(inner).__name__ in _USER_ERROR_NAMES:
        lines = [str(inner)]
        if isinstance(inner, HydraException) and chain[-1] is not inner:
            lines.append(str(chain[-1]))
        return "Error: " + "\n".join(lines)
    return None
