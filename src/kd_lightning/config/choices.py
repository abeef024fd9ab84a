"""A choice of a group as its YAML has it, composed after the command itself was."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.trust import reads_back


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
