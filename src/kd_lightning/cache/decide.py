"""Whether the teacher runs in every step or its signals come from disk; and writing them there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from torch import nn

from kd_lightning.cache.live import CacheError
from kd_lightning.cache.plan import Plan, batches_per_epoch, make_plan, planned_epochs
from kd_lightning.cache.role import CachedRole
from kd_lightning.cache.store import Place, StoredSignals
from kd_lightning.config.schema import Config
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.data.base import SplitDataModule
from kd_lightning.measures.format import rough_size, rough_time

log = logging.getLogger("kd_lightning")

CHOICES: dict[str, tuple[str | None, ...]] = {
    "cache": ("auto", "off", "read", "write"),
    "cache_dtype": ("fp16", "bf16", "fp32"),
    "placement": ("auto", None),
}


def stored_teacher(
    settings: Config,
    data: SplitDataModule,
    role: Role,
    teacher: nn.Module,
    references: Iterable[Reference],
    example: dict[str, Any],
    trainings: int = 1,
) -> tuple[Role, dict[str, Any]]:
    """The teacher as ``teacher.cache`` wants it: the role itself, or one that reads what is stored.

    Args:
        settings: Of the training.
        data: Prepared data; gives the stored rows with its training batches from now on, where they are used.
        role: The live teacher.
        teacher: Its net as it was loaded, before batch norms were folded.
        references: What the terms ask, of any role.
        example: A training batch on the CPU.
        trainings: How many trainings of this command want the same.

    Returns:
        The role, and the example with the stored rows where they are used.

    Raises:
        ValueError: ``read`` or ``write`` is not possible; says why, and what to do.
    """
    mode = str(settings.teacher.cache)
    for name, known in CHOICES.items():
        given = getattr(settings.teacher, name)
        if given not in known:
            choices = ", ".join("null" if choice is None else choice for choice in known)
            raise ValueError(f"teacher.{name}={given}: choose {choices}.")
    asked = [r for r in references if r.scope == role.name and r.flag != "module"]
    if mode == "off" or not asked:
        return role, example
    try:
        plan = make_plan(settings, data, role, teacher, asked, example)
        provide(plan, settings, mode, reads=_rows_to_read(settings, data, trainings))
    except CacheError as why:
        if mode != "auto":
            raise ValueError(f"teacher.cache={mode}: {why}. {why.remedy}") from None
        log.info(f"teacher cache: not used, the teacher runs in every step: {why}")
        return role, example
    data.signals = StoredSignals(plan.store, plan.signals, role.name, one_view=plan.one_view)
    stored = data.signals(example["index"], example["view"])
    return CachedRole(role, plan.signals), {**example, **stored}


def _rows_to_read(settings: Config, data: SplitDataModule, trainings: int) -> int:
    """Rows that the trainings of this command will ask for."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        trainings *= 2  # at least: the other jobs of the sweep
    batches = batches_per_epoch(settings, data)
    return trainings * planned_epochs(settings, batches) * batches * data.batch_size


def provide(plan: Plan, settings: Config, mode: str, reads: int) -> None:
    """See to it that all the plan wants is stored and in order.

    Raises:
        CacheError: It is not, and is not to be written or does not pay.
    """
    faults = plan.faults()
    stale = plan.stale(faults)
    if stale and mode == "read":
        raise CacheError(
            f"{', '.join(stale)} in {plan.store.folder} are not what the teacher gives now (its code may have changed"
            " since)",
            "Remove that folder and write anew with job=cache.",
        )
    for name in stale:
        log.warning(f"teacher cache: {name} in {plan.store.folder} is not what the teacher gives now: written anew.")
        shutil.rmtree(plan.store.folder / plan.signals[name].folder, ignore_errors=True)
    if stale:
        faults = plan.faults()
    if not faults:
        log.info(f"teacher cache: reading {plan.what} stored earlier in {plan.store.folder}; the teacher does not run")
        return
    if mode == "read":
        raise CacheError(
            f"{len(faults)} of {plan.files} files are missing or damaged. {next(iter(faults.values()))}",
            "Write them with job=cache and otherwise the same command, or set teacher.cache=auto.",
        )
    _check_room(plan, settings, faults)
    rows = plan.rows(faults)
    if mode == "auto" and reads <= rows:
        raise CacheError(
            f"{reads:,} rows would be read and {rows:,} written first. (It pays with several seeds, or with views that"
            f" come again: teacher.views={max(1, plan.views // 10)}, say)"
        )
    seconds = plan.seconds(rows)
    log.info(
        f"teacher cache: writing {plan.what} to {plan.store.folder}: {rough_size(plan.bytes_of(faults))}, about"
        f" {rough_time(seconds)}; {reads:,} rows will be read, {rows:,} are written"
    )
    started = time.perf_counter()
    plan.fill(faults)
    log.info(f"teacher cache: written in {rough_time(time.perf_counter() - started)}")


def _check_room(plan: Plan, settings: Config, faults: dict[Place, str]) -> None:
    size, limit = plan.size, settings.teacher.max_gb * 1e9
    folder = Path(settings.teacher.cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size <= limit and plan.bytes_of(faults) <= free:
        return
    why = (
        f"teacher.max_gb={settings.teacher.max_gb:g}"
        if size > limit
        else f"the {rough_size(free)} that are free in {folder}"
    )
    raise CacheError(
        f"{plan.what} would take {rough_size(size)}, more than {why}",
        f"Raise teacher.max_gb or make room, or store less: fewer teacher.views (now {plan.views}), teacher.topk for"
        " many classes, a method that asks for smaller signals; or set teacher.cache=off.",
    )
