"""Names of before: a ``_target_`` or an import that the first version had goes on working, and identities stay."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

log = logging.getLogger("kd_lightning")

PACKAGE = "kd_lightning"
# Folder of before and now -> its modules that moved; "" is the folder itself.
_FOLDERS: dict[tuple[str, str], str] = {
    ("", "config"): "schema conf_dir explain",
    ("", "files"): "runs packages",
    ("data", "data.images"): "module augment preprocess facts",
    ("data.sources", "data.images.sources"): (
        " cifar digits hf_images image_folder prepared synthetic tensors _archive"
    ),
    ("deploy", "deploy.formats"): "onnx torch_export executorch huggingface",
    ("deploy", "deploy.serve"): "server gate intake text_intake pictures",
    ("deploy", "models.compress"): "fake_quant prune",
    ("losses", "losses.ops"): (
        "_common _logits _maps _layers _tokens _transformer _heads _spans _chunks _norm _bridges _transport"
    ),
    ("models", "models.compress"): "fold",
    ("report", "comparison"): "records measured contrasts stats results",
    ("report", "measures"): "calibration robustness similarity format",
    ("report", "report.loggers"): "wandb wandb_logger trackio_logger",
    ("report", "report.plots"): ("svg heatmap curves tradeoff confusion balance reliability gradients alike pictures"),
    ("teachers", "cache"): " store fill shards topk",
}


def _table() -> dict[str, str]:
    found = {f"{PACKAGE}.teachers.cached": f"{PACKAGE}.cache.role"}
    for (before, now), modules in _FOLDERS.items():
        for module in modules.split(" "):
            parts = [PACKAGE, *before.split("."), module], [PACKAGE, *now.split("."), module.removeprefix("_")]
            old, new = (".".join(part for part in one if part) for one in parts)
            found[old] = new
    return found


NOW = _table()
"""Module of before -> where it lies now."""
BEFORE = {new: old for old, new in NOW.items()}


def current(target: str) -> str:
    """The present name of a class or function that a ``_target_`` names."""
    module, dot, name = target.rpartition(".")
    return f"{NOW.get(module, module)}{dot}{name}"


def canonical(target: str) -> str:
    """Its name in the first version, on which identities are computed: what was made then is found again."""
    module, dot, name = target.rpartition(".")
    return f"{BEFORE.get(module, module)}{dot}{name}"


def with_current_names(node: Any) -> Any:
    """Plain values with every ``_target_`` under its present name."""
    return _targets(node, current)


def with_canonical_names(node: Any) -> Any:
    """Plain values with every ``_target_`` as the first version had it."""
    return _targets(node, canonical)


def _targets(node: Any, rename: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: rename(value) if key == "_target_" and isinstance(value, str) else _targets(value, rename)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_targets(item, rename) for item in node]
    return node


class _Moved(MetaPathFinder, Loader):
    """Imports a module of before as the one that it is now, with one line that says so."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """For modules that moved only."""
        return ModuleSpec(fullname, self) if fullname in NOW else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of now, under both names."""
        module = importlib.import_module(NOW[spec.name])
        if not hasattr(module, "__path__"):  # of a folder, its module is told of
            log.warning(f"{spec.name} is now {NOW[spec.name]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; the import gave it the spec of before."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state

    def get_code(self, fullname: str) -> CodeType:
        """For ``python -m`` with a name of before."""
        return compile(f"import runpy; runpy.run_module({NOW[fullname]!r}, run_name='__main__')", fullname, "exec")


def install() -> None:
    """Let imports of before work; called once, by the package."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())  # before the one that would find a second copy in a folder that moved
