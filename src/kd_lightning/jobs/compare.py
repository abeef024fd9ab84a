"""``job=compare compare.runs=[<folder or glob>, ...]``: put finished runs side by side."""

from __future__ import annotations

import glob
from collections import defaultdict
from pathlib import Path

from omegaconf import DictConfig

from kd_lightning.jobs._assemble import build_data
from kd_lightning.jobs._comparison import build_arm, build_comparison, cost_of, read_record, show
from kd_lightning.jobs._load import ARM, load_run


def run(cfg: DictConfig, folder: Path) -> None:
    """Compare every training below the given folders; those of one model and method under several seeds are one arm."""
    groups: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for arm in _arm_folders(list(cfg.compare.runs) or ([cfg.run] if cfg.run else [])):
        record = read_record(arm)
        groups[record["kind"], record["model"], record["method"]].append(arm)
    first = load_run(next(iter(groups.values()))[0])
    data = build_data(first.cfg)
    arms = []
    for (kind, model, method), folders in sorted(groups.items(), key=lambda item: item[0][0] != "teacher"):
        loaded = load_run(folders[0])
        name = f"teacher {model}" if kind == "teacher" else f"{model} {'alone' if kind == 'alone' else '+ ' + method}"
        arms.append(build_arm(name, kind, folders, cost_of(loaded.net, data, loaded.folder, cfg)))
    reference = next((arm.name for arm in arms if arm.kind == "alone"), None)
    comparison = build_comparison(arms, data, cfg, reference)
    show(comparison, folder, cfg)


def _arm_folders(patterns: list[str]) -> list[Path]:
    """Folders of finished trainings at or below the patterns.

    Raises:
        ValueError: Where nothing was asked for.
        FileNotFoundError: Where a pattern leads to none.
    """
    if not patterns:
        raise ValueError("job=compare needs run folders: compare.runs=['outputs/digits_resnet/*'].")
    found: list[Path] = []
    for pattern in patterns:
        below = [p.parent for match in glob.glob(pattern) for p in sorted(Path(match).rglob(ARM))]
        if not below:
            raise FileNotFoundError(f"compare.runs: no finished training at or below '{pattern}'.")
        found.extend(below)
    return list(dict.fromkeys(found))
