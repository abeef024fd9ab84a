"""Run folders: their name, their state, and what identifies a run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_lightning.config.identity import of_command
from kd_lightning.config.renamed import with_canonical_names
from kd_lightning.core.ranks import said_by_first
from kd_lightning.files.alive import is_alive

STATUS = "status.json"


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
        json.dump(content, handle, indent=2, sort_keys=True)
        handle.write("\n")
    os.chmod(handle.name, 0o644)  # temporary files are their owner's alone; this one is to be read by others
    os.replace(handle.name, path)


def digest(content: Any) -> str:
    """Short hash of anything JSON can say; a class or function counts under the first name that it had."""
    content = with_canonical_names(content)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint(cfg: DictConfig) -> str:
    """Identity of a command: its whole configuration, less what may differ when it is started again."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    return digest(of_command(plain))


def read_status(folder: Path) -> dict[str, Any]:
    """The state of a run folder; empty where there is none or it cannot be read."""
    try:
        status = json.loads((folder / STATUS).read_text())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def write_status(folder: Path, **changes: Any) -> None:
    """Update the state of a run folder."""
    write_json(folder / STATUS, {**read_status(folder), **changes})


def unfinished(parent: Path, identity: str) -> Path | None:
    """The newest folder below ``parent`` whose run has this identity, did not finish, and is not running now."""
    found = []
    for path in parent.glob(f"*/{STATUS}"):
        status = read_status(path.parent)
        if (
            status.get("fingerprint") == identity
            and status.get("state") != "finished"
            and not is_alive(path.parent, path, status)
        ):
            found.append(path.parent)
    return max(found, key=lambda folder: folder.name, default=None)


# Folders that were given out in this process.
RUN_DIRS: dict[tuple[str, str], str] = {}


def _run_dir(name: str, resume: str, *, _root_: DictConfig) -> str:
    """Folder of this run: a new one, or with resume=auto the newest unfinished one of the same configuration."""
    parent = Path("outputs") / name
    # Hydra asks more than once, with and without its own node; the answer must stay the same.
    if resume not in ("auto", "never"):
        raise ValueError(f"resume={resume}: choose auto or never.")
    key = (str(parent), resume)
    if key not in RUN_DIRS:

        def chosen() -> str:
            found = unfinished(parent, fingerprint(_root_)) if resume == "auto" else None
            return str(found or _new(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))

        RUN_DIRS[key] = said_by_first(chosen, parent)
    return RUN_DIRS[key]


def _new(folder: Path) -> Path:
    """The folder, made; one with a number behind its name where another command of the same second has it."""
    place, number = folder, 1
    while True:
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
            place = folder.with_name(f"{folder.name}_{number}")
        else:
            return place


def register_resolvers() -> None:
    """Make ``${kd.run_dir:...}`` and ``${kd.last_part:...}`` (of a path, or of owner/model) known."""
    OmegaConf.register_new_resolver("kd.run_dir", _run_dir, replace=True)
    OmegaConf.register_new_resolver("kd.last_part", lambda path: Path(str(path)).name, replace=True)
