"""A choice of a group as its YAML has it, composed after the command itself was."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import OmegaConf, open_dict

from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.trust import reads_back

log = logging.getLogger("kd_lightning")
# Group -> its node that a class and the class's arguments stand in.
CLASSES = {"optimizer": "optimizer", "scheduler": "scheduler.factory"}
_INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def published(group: str, name: str) -> Any:
    """The configuration of a choice, from the same folders as this command's.

    Args:
        group: ``method`` or ``metrics``.
        name: The choice.

    Raises:
        hydra.errors.MissingConfigException: There is none of that name.
    """
    found = _composed(group, name)
    reads_back(OmegaConf.to_container(found))
    return found


def _composed(group: str, name: str) -> Any:
    overrides = [f"{group}={name}"]
    if GlobalHydra.instance().is_initialized():
        given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
        overrides += [o for o in given if "searchpath" in o]
        return compose("config", overrides)[group]
    # In a process that a launcher started, or after a configuration was composed without a command.
    known = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    sources = {source.provider: source.path for source in known}
    if "command-line" in sources:
        overrides.append(f"hydra.searchpath=[file://{sources['command-line']}]")
    with initialize_config_dir(sources.get("main", str(conf_dir())), version_base="1.3"):
        return compose("config", overrides)[group]


def unknown_arguments(node: Any) -> list[str]:
    """Arguments that the class or function which a node names does not take; none where that cannot be known."""
    try:
        parameters = inspect.signature(get_object(str(node["_target_"]))).parameters
    except (ImportError, AttributeError, TypeError, ValueError, KeyError, InstantiationException):
        return []
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return []
    return [str(key) for key in node if key not in {*_INSTANTIATE_KEYS, *parameters}]


def fitting(command: Command) -> Command:
    """The command without what a preset says to its own class, where another was named in that one's place.

    ``optimizer._target_=torch.optim.Adagrad`` need not take SGD's momentum out by hand. What was set for the new class
    stays, and is an error where it is misspelt.
    """
    raw = command.raw
    for group, place in CLASSES.items():
        node: Any = OmegaConf.select(raw, place)
        strange = unknown_arguments(node) if node else []
        if not strange or not HydraConfig.initialized():
            continue
        preset = published(group, HydraConfig.get().runtime.choices[group])
        preset = preset if place == group else preset[place.partition(".")[2]]
        written: Any = OmegaConf.to_container(node)
        meant: Any = {} if preset is None else OmegaConf.to_container(preset)
        left = [key for key in strange if key in meant and meant[key] == written[key]]
        if not left or meant["_target_"] == written["_target_"]:
            continue
        raw = copy.deepcopy(raw)
        with open_dict(raw):
            for key in left:
                del OmegaConf.select(raw, place)[key]
        log.info(f"{place}: {written['_target_']} takes no {', '.join(left)}; left out.")
    return Command(raw)


def laid_over(content: dict[str, Any], part: dict[str, Any]) -> None:
    """Take out of a whole configuration what a class does not take that a part puts in another's place.

    Args:
        content: The whole configuration, as plain values; changed in place.
        part: What is laid over it.
    """
    for place in CLASSES.values():
        below, over = content, part
        for key in place.split("."):
            below, over = (one.get(key) or {} if isinstance(one, dict) else {} for one in (below, over))
        if "_target_" in over and over["_target_"] != below.get("_target_"):
            for key in unknown_arguments({**below, **over}):
                if key not in over:
                    del below[key]
