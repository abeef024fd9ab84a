"""A training that goes on from a checkpoint: under the schedule that is set now, or refused where it cannot."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

log = logging.getLogger("kd_lightning")

# How a step is computed, which a machine or a clipped gradient decides, not what it is.
_HOW = ("params", "fused", "foreach", "capturable", "differentiable")
# What an optimiser keeps a state for: it cannot be had later.
_KEPT = ("amsgrad", "centered", "momentum")
ANEW = "To begin anew from its weights set student.checkpoint=<run folder> instead of ckpt_path."
# What a plateau scheduler has seen.
_SEEN = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")


class Course(pl.Callback):
    """Keeps in every checkpoint which optimiser and schedule it is of, and looks at that when it is gone on from.

    The same ones go on bit for bit. Under others (a longer run, another rate or scheduler) the rate is what it would be
    at this point had the run begun so; of the optimiser's moments nothing is lost.
    """

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None
        self._own: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        """Write it down."""
        checkpoint["course"] = self._own

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        """Keep the checkpoint until all is restored. (With sharded weights it comes after the optimiser was built.)"""
        self._before = checkpoint
        if self._own:
            self._compare(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything is built and the optimiser not yet restored: what will not fit is refused.

        Raises:
            ValueError: Another optimiser, other parameters, or an end that lies behind.
        """
        self._own = _course(trainer)
        if self._before is not None:
            self._compare(trainer)

    def _compare(self, trainer: pl.Trainer) -> None:
        checkpoint = self._before
        assert checkpoint is not None
        _check(trainer, self._own, checkpoint)
        if checkpoint.get("course") == self._own:
            self._before = None
            return
        # Lightning would fill one schedule with the state of another.
        self._before = {**checkpoint, "state_dict": None}
        checkpoint["lr_schedulers"] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """All is restored: where the course is another one now, take its rate."""
        before, self._before = self._before, None
        if before is None:
            return
        _follow(trainer, pl_module, before)
        rates = ", ".join(f"{rate:.4g}" for rate in dict.fromkeys(g["lr"] for g in trainer.optimizers[0].param_groups))
        log.info(f"  going on under another schedule or optimizer than before: the learning rate is {rates} from here")


def check_weights(module: pl.LightningModule, found: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of other nets than these, before it is half loaded; those in shards cannot be compared.

    Raises:
        ValueError: With one of the weights that are not there, or have another shape.
    """
    if module._trainer is not None and module.trainer.strategy.restore_checkpoint_after_setup:
        return
    own = module.state_dict()
    other = [name for name in own if name not in found or own[name].shape != found[name].shape]
    other += [name for name in found if name not in own]
    if other:
        raise ValueError(
            f"The checkpoint is of another student or another method: {other[0]} and {len(other) - 1} more of its"
            f" weights do not fit. Give ckpt_path a checkpoint of the same ones. {ANEW}"
        )


def _course(trainer: pl.Trainer) -> dict[str, Any]:
    """Optimiser and schedule as they are at their birth, in plain values."""
    optimizer = trainer.optimizers[0]
    schedules = [f"{config.interval} {_named(config.scheduler)}" for config in trainer.lr_scheduler_configs]
    return {
        "optimizer": type(optimizer).__qualname__,
        "groups": [
            {key: value for key, value in group.items() if _plain(key, value)} for group in optimizer.param_groups
        ],
        "schedules": schedules,
    }


def _named(scheduler: Any) -> str:
    state = scheduler.state_dict()
    return f"{type(scheduler).__qualname__} {sorted((key, str(value)) for key, value in state.items())}"


def _plain(key: str, value: Any) -> bool:
    """Whether a setting of a group is one that decides what is learnt, and can be written down."""
    parts = value if isinstance(value, (tuple, list)) else [value]
    return key not in _HOW and all(one is None or isinstance(one, (bool, int, float, str)) for one in parts)


def epochs_done(checkpoint: Any) -> int:
    """Epochs whose last batch is behind a checkpoint: as often has a schedule by epochs stepped."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs = loops["epoch_progress"]["current"]
    inside = epochs["started"] > epochs["processed"] and loops["epoch_loop.batch_progress"]["is_last_batch"]
    return int(epochs["processed"]) + int(inside)


def _check(trainer: pl.Trainer, own: dict[str, Any], before: dict[str, Any]) -> None:
    """Refuse what torch or Lightning would fail at later, or go on with in silence."""
    course, name, optimizer = before.get("course"), own["optimizer"], trainer.optimizers[0]
    groups = [group for state in before["optimizer_states"] for group in state.get("param_groups", ())]
    known = course["optimizer"] if course else None
    keys = [set(one[0]) - {*_HOW, "initial_lr"} if one else set() for one in (groups, optimizer.param_groups)]
    if known not in (None, name) or (known is None and groups and keys[0] != keys[1]):
        raise ValueError(
            f"The checkpoint is of a training with {known or 'another optimizer'}, whose state {name} cannot go on"
            f" with. Take the same optimizer. {ANEW}"
        )
    sizes = [[len(group["params"]) for group in one] for one in (groups, optimizer.param_groups)]
    if groups and sizes[0] != sizes[1]:
        raise ValueError(
            f"The checkpoint has {sizes[0]} parameters that learn, by part, and this training {sizes[1]}: its student"
            f" or its method is another. {ANEW}"
        )
    for old, new in zip(groups, optimizer.param_groups, strict=False):
        for key in _KEPT:
            if new.get(key) and not old.get(key):
                raise ValueError(
                    f"optimizer.{key}={new[key]}: the checkpoint is of a training without, and has no state for it."
                    f" Leave it at {old.get(key)}. {ANEW}"
                )
    ends = (
        ("max_steps", trainer.max_steps, before["global_step"]),
        ("max_epochs", trainer.max_epochs, epochs_done(before)),
    )
    for key, end, done in ends:
        if end not in (-1, None) and done > end:
            raise ValueError(f"trainer.{key}={end}: the checkpoint has {done} behind it already. Set a larger one.")


def _follow(trainer: pl.Trainer, module: pl.LightningModule, before: dict[str, Any]) -> None:
    """Settings and rates of the optimiser as they would be here, had the run begun under this course."""
    built: Any = module.configure_optimizers()
    twin = built["optimizer"] if isinstance(built, dict) else built
    born = [group["lr"] for group in twin.param_groups]
    optimizer = trainer.optimizers[0]
    rates = None
    for config in trainer.lr_scheduler_configs:
        fresh, state = built["lr_scheduler"]["scheduler"], {}
        if isinstance(fresh, ReduceLROnPlateau):  # it has no place on a way: what it has seen and done stays
            seen = (before["lr_schedulers"] or [{}])[0]
            if "num_bad_epochs" in seen:
                state = {key: seen[key] for key in _SEEN if key in seen}
                rates = _scaled(optimizer, born, before.get("course"))
        else:
            count = epochs_done(before) if config.interval == "epoch" else before["global_step"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no step of the optimiser was made between
                for _ in range(count):
                    fresh.step()
        config.scheduler.load_state_dict({**fresh.state_dict(), **state})
    for i, (group, fresh_group) in enumerate(zip(optimizer.param_groups, twin.param_groups, strict=True)):
        group.update({key: value for key, value in fresh_group.items() if key not in _HOW})
        if rates is not None:
            group["lr"] = rates[i]


def _scaled(optimizer: Optimizer, born: list[float], course: dict[str, Any] | None) -> list[float]:
    """The rates that a plateau has come down to, in proportion to what is set now."""
    were = [group["lr"] for group in course["groups"]] if course else born
    pairs = zip(optimizer.param_groups, born, were, strict=True)
    return [group["lr"] * (new / old if old else 1.0) for group, new, old in pairs]
