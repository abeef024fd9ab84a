"""What a server is made of: the intake, the models in their processes, what the page tells of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from kd_lightning.config.roles import TEACHER, frozen
from kd_lightning.config.schema import Frozen
from kd_lightning.config.schema_jobs import Serve
from kd_lightning.config.values import read_settings
from kd_lightning.deploy.folder import TOKENIZER, read_preprocessing
from kd_lightning.deploy.formats.registry import FORMATS, Runner
from kd_lightning.deploy.inputs import Inputs
from kd_lightning.deploy.outputs import task_of
from kd_lightning.files.artifact import SETTINGS, WEIGHTS
from kd_lightning.training.nets import build_net, load_net, load_run

log = logging.getLogger("kd_lightning")


def intake_for(serve: Serve, preprocessing: dict[str, Any]) -> Any:
    """What takes requests up."""
    if preprocessing.get("kind") == "text":
        from kd_lightning.deploy.serve.text_intake import TextIntake

        return TextIntake(preprocessing, serve.max_characters)
    from kd_lightning.deploy.serve.pictures import Limits, PictureIntake

    return PictureIntake(preprocessing, Limits(int(serve.max_mb * 1e6), serve.max_pixels))


def picture_model(serve: Serve, export: Path, load: Callable[[], Runner]) -> Any:
    """The model in the process that runs it."""
    from kd_lightning.deploy.serve.pictures import PictureModel

    return PictureModel(load(), read_preprocessing(export), serve.top)


def text_model(serve: Serve, export: Path, load: Callable[[], Runner]) -> Any:
    """The same for texts."""
    from kd_lightning.deploy.texts import TextModel, TextReader

    preprocessing = read_preprocessing(export)
    reader = TextReader(export / TOKENIZER, preprocessing)
    return TextModel(load(), reader, preprocessing, serve.top, serve.new_tokens)


def teacher_beside(record: dict[str, Any], export: Path) -> partial[Runner] | None:
    """What loads the teacher; None, with a line of log, where it cannot be served beside the student."""
    told = record["teacher"]
    if told is None:
        return None
    folder, name = told["folder"], told.get("role", TEACHER)
    role = frozen(read_settings(export / SETTINGS))[name]
    if role.call.get("prefix"):
        log.info(f"The teacher {told['name']} has a tokenizer of its own: the student is served alone.")
        return None
    if folder is not None and (Path(folder) / WEIGHTS).is_file():
        return partial(stored_teacher, folder)
    if folder is None and _is_given(role):
        return partial(given_teacher, export / SETTINGS, name)
    log.info(f"The teacher {told['name']} is not on this machine: the student is served alone.")
    return None


def _is_given(teacher: Frozen) -> bool:
    """Whether the teacher can be built from the run's configuration: its checkpoint is there, or it needs none."""
    return bool(teacher.fit is None if teacher.checkpoint is None else Path(teacher.checkpoint).exists())


def stored_teacher(folder: str) -> Runner:
    """A teacher that was trained here, as a function of its inputs."""
    artifact = load_run(folder)
    settings = artifact.settings
    return _called(load_net(artifact), settings.student.call, settings.data)


def given_teacher(config: Path, name: str = TEACHER) -> Runner:
    """A teacher from elsewhere, as the run used it."""
    settings = read_settings(config)
    role = frozen(settings)[name]
    return _called(build_net(role, role.seed, frozen=True).eval(), role.call, settings.data)


def _called(net: torch.nn.Module, call: dict[str, Any], data: dict[str, Any]) -> Runner:
    """Inputs to the answer, in PyTorch."""
    called, output = instantiate(call), task_of(data).output
    if hasattr(called, "listen"):
        called.listen((output,), net)

    def run(inputs: Inputs) -> Tensor:
        batch = {"image": inputs} if isinstance(inputs, Tensor) else inputs
        with torch.no_grad():
            answer: Tensor = called(net, batch)[output]
        return answer

    return run


def facts(serve: Serve, record: dict[str, Any], preprocessing: dict[str, Any], teacher: Any) -> dict[str, Any]:
    """What the page tells of the models."""
    figures, task = record["formats"].get(serve.backend, record["pytorch"]), task_of(preprocessing)
    beside = None
    if teacher is not None:
        beside = {"name": record["teacher"]["name"], "accuracy": record["teacher"]["accuracy"], "format": "PyTorch"}
    return {
        "student": {
            "name": record["model"],
            "format": FORMATS[serve.backend].title,
            "accuracy": figures["accuracy"],
            "bytes": figures["bytes"],
        },
        "teacher": beside,
        "data": record["data"]["name"],
        "classes": preprocessing["class_names"],
        "takes": preprocessing.get("kind", "image"),
        "task": task.name,
        "view": task.view,
        "verb": task.verb,
        "ask": task.ask,
        "score": task.quality_name,
        "pair": bool(preprocessing.get("pair")),
        "mask": preprocessing[task.must_hold] if task.must_hold else None,
        "max_mb": serve.max_mb,
        "max_characters": serve.max_characters,
    }
