"""``job=methods``: the methods there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from kd_lightning.conf_dir import conf_dir


def method_infos() -> list[dict[str, Any]]:
    """Name and ``info`` of every shipped method, by kind and year."""
    infos = []
    for path in sorted((conf_dir() / "method").glob("*.yaml")):
        node = OmegaConf.load(path)
        assert isinstance(node, DictConfig)
        infos.append({"name": path.stem, **OmegaConf.to_container(node.info)})  # type: ignore[dict-item]
    return sorted(infos, key=lambda info: (info["kind"], info["year"], info["name"]))


def run(cfg: DictConfig, folder: Path) -> None:
    """Print the table."""
    table = Table("method", "kind", "year", "paper", "needs", title="method=<name>")
    for info in method_infos():
        table.add_row(info["name"], info["kind"], str(info["year"]), info["paper"], ", ".join(info["needs"]))
    Console().print(table)
