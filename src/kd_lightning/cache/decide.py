"""Whether a frozen role runs in every step or its signals come from disk; and writing them there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from kd_lightning.cache.frozen import FrozenRole
from kd_lightning.cache.live import CacheError
from kd_lightning.cache.plan import Plan, batches_per_epoch, make_plan, planned_epochs
from kd_lightning.cache.role import CachedRole
from kd_lightning.cache.store import Place, StoredSignals
from kd_lightning.config.schema import Config, Serving
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


def check_serving(serving: Serving, key: str) -> None:
    """Refuse a way of serving that there is not.

    Args:
        serving: Of a role.
        key: Where it is set.

    Raises:
        ValueError: With the choices.
    """
    for name, known in CHOICES.items():
        given = getattr(serving, name)
        if given not in known:
            choices = ", ".join("null" if choice is None else choice for choice in known)
            raise ValueError(f"{key}.{name}={given}: choose {choices}.")


def stored_role(
    own: FrozenRole, references: Iterable[Reference], example: dict[str, Any], trainings: int = 1
) -> tuple[Role, StoredSignals | None]:
    """A role as its ``cache`` wants it: itself, or one that reads what is stored.

    Args:
        own: The role.
        references: What the terms ask, of any role.
        example: A training batch on the CPU.
        trainings: How many trainings of this command want the same.

    Returns:
        The role, and the stored rows that training batches must have for it, where they are used.

    Raises:
        ValueError: ``read`` or ``write`` is not possible; says why, and what to do.
    """
    role, mode = own.role, str(own.serving.cache)
    check_serving(own.serving, own.key)
    asked = [r for r in references if r.scope == role.name and r.flag != "module"]
    if mode == "off" or not asked:
        return role, None
    try:
        plan = make_plan(own, asked, example)
        provide(plan, own, mode, reads=_rows_to_read(own.settings, own.data, trainings))
    except CacheError as why:
        if mode != "auto":
            raise ValueError(f"{own.key}.cache={mode}: {why}. {why.remedy}") from None
        log.info(f"{own.key} cache: not used, the {own.name} runs in every step: {why}")
        return role, None
    stored = StoredSignals(plan.store, plan.signals, role.name, one_view=plan.one_view)
    return CachedRole(role, plan.signals), stored


def _rows_to_read(settings: Config, data: SplitDataModule, trainings: int) -> int:
    """Rows that the trainings of this command will ask for."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        trainings *= 2  # at least: the other jobs of the sweep
    batches = batches_per_epoch(settings, data)
    return trainings * planned_epochs(settings, batches) * batches * data.batch_size


def provide(plan: Plan, own: FrozenRole, mode: str, reads: int) -> None:
    """See to it that all the plan wants is stored and in order.

    Raises:
        CacheError: It is not, and is not to be written or does not pay.
    """
    faults = plan.faults()
    stale = plan.stale(faults)
    if stale and mode == "read":
        raise CacheError(
            f"{', '.join(stale)} in {plan.store.folder} are not what the {own.name} gives now (its code may have"
            " changed since)",
            "Remove that folder and write anew with job=cache.",
        )
    for name in stale:
        log.warning(
            f"{own.key} cache: {name} in {plan.store.folder} is not what the {own.name} gives now: written anew."
        )
        shutil.rmtree(plan.store.folder / plan.signals[name].folder, ignore_errors=True)
    if stale:
        faults = plan.faults()
    if not faults:
        where = f"stored earlier in {plan.store.folder}"
        log.info(f"{own.key} cache: reading {plan.what} {where}; the {own.name} does not run")
        return
    if mode == "read":
        raise CacheError(
            f"{len(faults)} of {plan.files} files are missing or damaged. {next(iter(faults.values()))}",
            f"Write them with job=cache and otherwise the same command, or set {own.key}.cache=auto.",
        )
    _check_room(plan, own, faults)
    rows = plan.rows(faults)
    if mode == "auto" and reads <= rows:
        raise CacheError(
            f"{reads:,} rows would be read and {rows:,} written first. (It pays with several seeds, or with views that"
            f" come again: teacher.views={max(1, plan.views // 10)}, say)"
        )
    seconds = plan.seconds(rows)
    log.info(
        f"{own.key} cache: writing {plan.what} to {plan.store.folder}: {rough_size(plan.bytes_of(faults))}, about"
        f" {rough_time(seconds)}; {reads:,} rows will be read, {rows:,} are written"
    )
    started = time.perf_counter()
    plan.fill(faults)
    log.info(f"{own.key} cache: written in {rough_time(time.perf_counter() - started)}")


def _check_room(plan: Plan, own: FrozenRole, faults: dict[Place, str]) -> None:
    size, limit = plan.size, own.serving.max_gb * 1e9
    folder = Path(own.serving.cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size <= limit and plan.bytes_of(faults) <= free:
        return
    why = (
        f"{own.key}.max_gb={own.serving.max_gb:g}"
        if size > limit
        else f"the {rough_size(free)} that are free in {folder}"
    )
    raise CacheError(
        f"{plan.what} would take {rough_size(size)}, more than {why}",
        f"Raise {own.key}.max_gb or make room, or store less: fewer teacher.views (now {plan.views}), {own.key}.topk"
        f" for many classes, a method that asks for smaller signals; or set {own.key}.cache=off.",
    )
