"""A choice of a group as its YAML has it, composed after the command itself was."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from kd_lightning.config.conf_dir import conf_dir


def published(group: str, name: str) -> Any:
    """The configuration of a choice, from the same folders as this command's.

    Args:
        group: ``method`` or ``metrics``.
        name: The choice.

    Raises:
        hydra.errors.MissingConfigException: There is none of that name.
    """
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
