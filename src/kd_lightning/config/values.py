"""From raw configuration to plain Python: dataclasses of the schema, dicts, lists, numbers; and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

from kd_lightning.config.renamed import with_current_names
from kd_lightning.config.schema import Config
from kd_lightning.config.trust import check_named


def values(node: Any) -> Any:
    """A node with all interpolations resolved, as instances of the schema's classes where it is of one.

    What has no value yet stays ``???``, and an argument that refers to what there is not stays the reference: a part
    that is not used need not be right. Where it is used, it is an error then.
    """
    if isinstance(node, ListConfig):
        return [values(node[i]) for i in range(len(node))]
    if not isinstance(node, DictConfig):
        return node
    kind: Any = OmegaConf.get_type(node)
    typed = isinstance(kind, type) and is_dataclass(kind)
    found = {key: _value(node, key, typed) for key in node}
    if not typed:
        return found
    known = {one.name for one in fields(kind)}
    result = kind(**{key: value for key, value in found.items() if key in known})
    for key, value in found.items():
        if key not in known:  # added with a +, such as an option of Lightning's Trainer
            setattr(result, str(key), value)
    return result


def _value(node: DictConfig, key: Any, typed: bool) -> Any:
    try:
        return "???" if OmegaConf.is_missing(node, key) else values(node[key])
    except InterpolationToMissingValueError:
        return "???"
    except InterpolationKeyError:
        if typed:
            raise
        return OmegaConf.to_container(node)[key]  # type: ignore[index]


def settings_of(raw: DictConfig) -> Config:
    """The whole configuration of a command, or of a finished run (which has no types), as values."""
    found = values(raw)
    return found if isinstance(found, Config) else _filled(Config(), found)


def plain(settings: Any) -> Any:
    """Settings as dicts and lists, what was added with a + included."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return {key: plain(value) for key, value in vars(settings).items()}
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [plain(item) for item in settings]
    return settings


def write_settings(content: dict[str, Any], path: Path) -> None:
    """Settings as YAML."""
    OmegaConf.save(OmegaConf.create(content), path)


def read_settings(path: Path) -> Config:
    """The settings of a run of now or before: what was not known then has its default, what is unknown now is kept.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It names what is not built from a folder, see :mod:`kd_lightning.config.trust`.
    """
    return settings_of(read_raw(path))


def read_raw(path: Path) -> DictConfig:
    """The same as raw configuration, for what is derived from it."""
    content: Any = with_current_names(OmegaConf.to_container(OmegaConf.load(path)))
    check_named(content, str(path))
    content.pop("trust", None)  # whom to trust the user says, not a folder
    raw = OmegaConf.create(content)
    assert isinstance(raw, DictConfig)
    return raw


def _filled(settings: Any, found: dict[str, Any]) -> Any:
    """The settings with what was found in their place."""
    kinds = get_type_hints(type(settings))
    for key, value in found.items():
        hint = kinds.get(key)
        kind: Any = next((one for one in _kinds(hint) if is_dataclass(one)), None)
        if kind is not None and isinstance(value, dict):
            several = get_origin(hint) is dict  # by name
            value = {k: _filled(kind(), v) for k, v in value.items()} if several else _filled(kind(), value)
        setattr(settings, key, value)
    return settings


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The classes that a field may be of."""
    return get_args(hint) or (hint,)
