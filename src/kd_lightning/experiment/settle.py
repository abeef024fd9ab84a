"""Where raw configuration ends: checked, its data built and prepared, every further training's settings as values.

Interpolations are why this needs the raw configuration: under another seed, or with a part laid over the whole, they
say something else. Below this file nobody has any, and nobody changes settings in place.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.config.check import check_targets
from kd_lightning.config.choices import fitting, laid_over, published
from kd_lightning.config.command import Command
from kd_lightning.config.roles import check_roles, key_of, node_of, table
from kd_lightning.config.schema import Config, Method
from kd_lightning.config.schema_jobs import Export
from kd_lightning.config.two_tokenizers import PREFIX, two_tokenizers, with_teacher_tokens
from kd_lightning.config.values import plain, read_raw, settings_of
from kd_lightning.data.base import SplitDataModule
from kd_lightning.experiment.tokenizers import with_own_tokenizer
from kd_lightning.files.artifact import SETTINGS, Artifact, student_folder
from kd_lightning.tasks.base import Task
from kd_lightning.tasks.registry import find_task

# What may stand for what the task takes (beside ``fit.method`` of a role), and the group that it is chosen from.
BY_TASK = (("metrics", "metrics"), ("method", "method"), ("baseline", "method"))
# The choices that they look like until then, in conf/metrics/auto.yaml and conf/method/supervised.yaml.
LOOKS_LIKE = {"metrics": "classification", "method": "ce"}
# Of ``student.fit``, replaced as a whole: merged, they would keep the arguments of the student's own task.
WHOLE = ("data", "method", "metrics")


@dataclass(frozen=True)
class Settled:
    """A configuration with its data.

    Attributes:
        data: Prepared.
        raw: The configuration with the facts of the data in it; for the methods here.
    """

    data: SplitDataModule
    raw: DictConfig

    @cached_property
    def settings(self) -> Config:
        """Its values."""
        return settings_of(self.raw)

    def under(self, seed: int, method: dict[str, Any]) -> Config:
        """The values of one training.

        Args:
            seed: Its seed.
            method: Its method, as it was composed.
        """
        own = copy.deepcopy(self.raw)
        own.seed, own.seeds = seed, None
        own.method = OmegaConf.merge(OmegaConf.structured(Method), method)
        return settings_of(own)

    def with_body(self, folder: Path) -> Settled:
        """The same with a student that starts from the body of a training."""
        own = copy.deepcopy(self.raw)
        own.student.body = str(folder)
        return Settled(self.data, own)

    def read_again(self) -> SplitDataModule:
        """The data once more, for a choice of its own among the samples."""
        return build_data(self.raw)

    def of_role(self, name: str) -> Settled:
        """That of a frozen role's own training: its net in the place of the student, its ``fit`` laid over."""
        content: Any = OmegaConf.to_container(_before_refinement(self.raw, name))
        role = node_of(content, name)
        fit = dict(role["fit"])
        # Net and method are replaced as a whole: merging would keep the student's arguments and terms.
        content["student"] = {key: role[key] for key in content["student"]} | {"fit": None}
        content["method"] = fit.pop("method", content["method"])
        if content["method"] is None:
            where = key_of(name)
            raise ValueError(
                f"The {name} cannot be trained: data.task={self.data.task} has no labels to learn from. Give it a"
                f" {where}.checkpoint, or set {where}.fit=null to take it as it is built."
            )
        content["seed"] = role["seed"]
        for own in ("views", "select"):  # what the student sees of the data is not the business of who teaches it
            content["data"].pop(own, None)
        further = (content.get("roles") or {}).items()
        content["roles"] = {key: one for key, one in further if one["follows"] is None and key != name}
        other = two_tokenizers(self.settings) and table(self.settings)[name].call.get("prefix") == PREFIX
        if other:
            with_teacher_tokens(content)
        raw = _laid_over(content, fit)
        return Settled(build_data(raw) if other else self.data, raw)

    def of_pilot(self) -> Config:
        """The values of the pilot student that chooses samples: trained alone, on all of them.

        Raises:
            ValueError: There is no method to train it with.
        """
        if self.raw.baseline is None:
            raise ValueError("data.select.pilot=train trains the student by the method `baseline`, which is null.")
        own = copy.deepcopy(self.raw)
        own.seeds, own.method = None, own.baseline
        with open_dict(own.data):
            own.data.select = None
        return settings_of(own)

    def of_body(self) -> Settled:
        """That of the training of the student's body, before its task: ``student.fit`` laid over."""
        content: Any = OmegaConf.to_container(self.raw)
        fit = dict(content["student"]["fit"])
        for key in WHOLE:
            content[key] = fit.pop(key, content[key])
        content["student"]["fit"] = None
        content["seed"] = self.settings.teacher.seed
        raw = with_own_tokenizer(Command(_laid_over(content, fit))).raw
        return Settled(build_data(raw), raw)


def settle(command: Command) -> Settled:
    """The configuration of a command, checked, with its data.

    Raises:
        ValueError: A misspelt argument, roles that cannot be, or metrics that are not of the data's task.
    """
    command = fitting(command)
    check_targets(command.raw)
    check_roles(command.settings)
    raw = copy.deepcopy(with_own_tokenizer(decided(command)).raw)
    return Settled(build_data(raw), raw)


def reopen(artifact: Artifact, export: Export | None = None) -> Settled:
    """The configuration of a finished training with its data.

    Args:
        artifact: What it left.
        export: Replaces its ``export``.
    """
    raw = read_raw(artifact.folder / SETTINGS)
    data = build_data(raw)
    if export is not None:
        raw.export = plain(export)
    return Settled(data, raw)


def build_data(raw: DictConfig) -> SplitDataModule:
    """The data, prepared; what it found out is written into the configuration for the models."""
    data: SplitDataModule = instantiate(raw.data)
    _check_metrics(raw.metrics, data.task)
    data.prepare()
    with open_dict(raw.data):
        for key, value in data.facts.items():
            if raw.data.get(key) is None:
                raw.data[key] = _as_text(key, value)
    return data


def _as_text(key: str, value: Any) -> Any:
    """A fact of the data as it is.

    Raises:
        ValueError: A text that a configuration would take for a reference and resolve, such as a class that is called
            ``${oc.env:HOME}``.
    """
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(text, str) and "${" in text:
            raise ValueError(f"data.{key} holds {text!r}: a name with ${{ would be read as a reference. Rename it.")
    return value


def decided(command: Command) -> Command:
    """The command with what its data's task takes in the place of ``metrics=auto`` and ``method=supervised``.

    The task is known before the data is read, and nothing else of it is asked here.

    Raises:
        ValueError: There is no such task, or it has no labels to learn from.
    """
    places = [*BY_TASK, *((f"{key_of(name)}.fit.method", "method") for name in table(command.settings))]
    marked = [(place, group) for place, group in places if OmegaConf.select(command.raw, f"{place}.by_task")]
    task = _task(command.raw) if marked else None
    taken = {} if task is None else {"metrics": task.metrics, "method": task.supervised}
    if all(taken[group] == LOOKS_LIKE[group] for _, group in marked):
        return command
    if task is not None and task.supervised is None and ("method", "method") in marked:
        raise ValueError(f"method=supervised: data.task={task} has no labels to learn from. Take another method.")
    chosen: dict[str, Any] = {}
    for group in {group for _, group in marked}:  # composing takes time: once for control and teacher
        choice = taken[group]
        chosen[group] = None if choice is None else published(group, choice)
    raw = copy.deepcopy(command.raw)
    for place, group in marked:
        OmegaConf.update(raw, place, chosen[group], merge=False, force_add=True)
    return Command(raw)


def _task(raw: DictConfig) -> Task:
    """The task of the data: as it is set, or as its module has it by default."""
    name = raw.data.get("task")
    if name is None:
        name = inspect.signature(get_object(raw.data._target_)).parameters["task"].default
    return find_task(name)


def _check_metrics(metrics: Any, task: Task) -> None:
    """The metrics must be of the kind of target that the task has, or of a task that it is made from."""
    known = [find_task(name) for name in metrics.tasks or ()]
    if metrics.tasks is None or any(isinstance(task, type(one)) or task.target == one.target for one in known):
        return
    raise ValueError(
        f"The metrics, chosen on {metrics.monitor}, are of data.task={' or '.join(metrics.tasks)}; for"
        f" data.task={task} take metrics={task.metrics}, or metrics=auto."
    )


def _laid_over(content: dict[str, Any], fit: dict[str, Any]) -> DictConfig:
    """The configuration of a training before the main ones: a partial one laid over the whole.

    Args:
        content: The whole configuration as plain values, with the net that learns as ``student``; changed in place.
        fit: The partial one.
    """
    content.update(seeds=None, ckpt_path=None, protocol="validation")
    laid_over(content, fit)
    merged = OmegaConf.merge(OmegaConf.structured(Config), content, fit)
    assert isinstance(merged, DictConfig)
    return merged


def _before_refinement(raw: DictConfig, name: str) -> DictConfig:
    """The configuration that the student was first trained under, where ``raw`` refines it with the same frozen role.

    The few epochs and the small learning rate of a refinement are not the teacher's: such a teacher would be worse than
    the student, and spoil it.
    """
    source = raw.student.checkpoint
    if not raw.student.get("quantise") or source is None or not Path(source).is_dir():
        return raw
    first = OmegaConf.merge(OmegaConf.structured(Config), read_raw(student_folder(Path(source)) / SETTINGS))
    assert isinstance(first, DictConfig)
    now, then = (OmegaConf.select(one, key_of(name)) for one in (raw, first))
    if then is None:
        return raw
    then.store, first.logger = now.store, raw.logger
    pairs = ((then, first.data), (now, raw.data))
    both = [[OmegaConf.to_container(one, resolve=True) for one in pair] for pair in pairs]
    return first if both[0] == both[1] else raw
