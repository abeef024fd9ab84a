"""``job=serve run=<folder>``: the exported student, and its teacher beside it, behind HTTP with a page to try them."""

from __future__ import annotations

import importlib.util
import json
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from kd_lightning.deploy.check import SCORES
from kd_lightning.deploy.formats import FORMATS, Runner
from kd_lightning.deploy.inputs import Inputs
from kd_lightning.deploy.student import RECORD, TOKENIZER, exported_file, read_preprocessing
from kd_lightning.jobs._load import load_run, required_run
from kd_lightning.report.tasks import TASKS

log = logging.getLogger("kd_lightning")

HOSTS = ("127.0.0.1", "0.0.0.0", "::")


def run(cfg: DictConfig, folder: Path) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ModuleNotFoundError: LitServe is not installed.
        ValueError: A setting is wrong, or the port is taken.
        FileNotFoundError: The run has no export in this format.
    """
    _check(cfg.serve)
    path = exported_file(required_run(cfg), cfg.serve.backend, "serve.backend")
    export, preprocessing = path.parent, read_preprocessing(path.parent)
    texts = preprocessing.get("kind") == "text"
    if not texts and preprocessing["image_size"] is None:
        raise ValueError("This student takes feature vectors; job=serve is for students that take pictures or texts.")
    record = json.loads((export / RECORD).read_text())
    teacher = _teacher(record, export) if cfg.serve.teacher else None

    from kd_lightning.deploy.server import ModelAPI, build_server, serve

    options = {"max_batch_size": cfg.serve.batch_size, "batch_timeout": cfg.serve.timeout_ms / 1000}
    runners = {"/predict": partial(FORMATS[cfg.serve.backend].load, path)}
    if teacher is not None:
        runners["/predict/teacher"] = teacher
    model = partial(_text_model if texts else _picture_model, cfg.serve, export)
    apis = [ModelAPI(partial(model, load), api_path=at, **options) for at, load in runners.items()]
    facts = _facts(cfg, record, preprocessing, teacher)
    intake = _intake(cfg.serve, preprocessing)
    server = build_server(apis, intake, cfg.serve.request_timeout_s, facts, cfg.serve.workers)
    address = f"http://{cfg.serve.host if ':' not in cfg.serve.host else '[::1]'}:{cfg.serve.port}"
    log.info(f"Starting {address} ...")
    serve(server, cfg.serve.host, cfg.serve.port, lambda: log.info(f"Ready: {address}  (Ctrl-C stops it)"))
    log.info("Stopped.")


def _intake(serve: DictConfig, preprocessing: dict[str, Any]) -> Any:
    """What takes requests up."""
    if preprocessing.get("kind") == "text":
        from kd_lightning.deploy.text_intake import TextIntake

        return TextIntake(preprocessing, serve.max_characters)
    from kd_lightning.deploy.pictures import Limits, PictureIntake

    return PictureIntake(preprocessing, Limits(int(serve.max_mb * 1e6), serve.max_pixels))


def _picture_model(serve: DictConfig, export: Path, load: Callable[[], Runner]) -> Any:
    """The model in the process that runs it."""
    from kd_lightning.deploy.pictures import PictureModel

    return PictureModel(load(), read_preprocessing(export), serve.top)


def _text_model(serve: DictConfig, export: Path, load: Callable[[], Runner]) -> Any:
    """The same for texts."""
    from kd_lightning.deploy.texts import TextModel, TextReader

    preprocessing = read_preprocessing(export)
    reader = TextReader(export / TOKENIZER, preprocessing)
    return TextModel(load(), reader, preprocessing, serve.top, serve.new_tokens)


def _check(serve: DictConfig) -> None:
    """Refuse what cannot be served, before anything is started."""
    if importlib.util.find_spec("litserve") is None:
        raise ModuleNotFoundError("job=serve needs LitServe: pip install 'kd-lightning[serve]' (or litserve).")
    if serve.host == "localhost":
        serve.host = "127.0.0.1"
    if serve.host not in HOSTS:
        raise ValueError(f"serve.host={serve.host}: choose 127.0.0.1 (this machine only), 0.0.0.0 or :: (all).")
    if not 1024 <= serve.port <= 65535:
        raise ValueError(f"serve.port={serve.port}: choose a port from 1024 to 65535.")
    for name in ("batch_size", "workers", "top", "max_pixels", "max_characters", "new_tokens"):
        if serve[name] < 1:
            raise ValueError(f"serve.{name} must be at least 1, not {serve[name]}.")
    for name in ("max_mb", "request_timeout_s"):
        if not serve[name] > 0:
            raise ValueError(f"serve.{name} must be positive, not {serve[name]}.")
    with socket.socket(socket.AF_INET6 if ":" in serve.host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((serve.host, serve.port))
        except OSError as error:
            raise ValueError(f"serve.port={serve.port} cannot be used ({error.strerror}): choose another.") from None


def _teacher(record: dict[str, Any], export: Path) -> partial[Runner] | None:
    """What loads the teacher; None, with a line of log, where it cannot be served beside the student."""
    if record["teacher"] is None:
        return None
    folder = record["teacher"]["folder"]
    config = OmegaConf.load(export / "config.yaml")
    if config.teacher.call.get("prefix"):
        log.info(f"The teacher {record['teacher']['name']} has a tokenizer of its own: the student is served alone.")
        return None
    if folder is not None and (Path(folder) / "student.safetensors").is_file():
        return partial(stored_teacher, folder)
    if folder is None and _is_given(config):
        return partial(given_teacher, export / "config.yaml")
    log.info(f"The teacher {record['teacher']['name']} is not on this machine: the student is served alone.")
    return None


def _is_given(config: Any) -> bool:
    """Whether the teacher can be built from the run's configuration: its checkpoint is there, or it needs none."""
    teacher = config.teacher
    return bool(teacher.fit is None if teacher.checkpoint is None else Path(teacher.checkpoint).exists())


def stored_teacher(folder: str) -> Runner:
    """A teacher that was trained here, as a function of its inputs."""
    loaded = load_run(folder)
    return _called(loaded.net, loaded.cfg.student.call, loaded.cfg.data)


def given_teacher(config: Path) -> Runner:
    """A teacher from elsewhere, as the run used it."""
    from kd_lightning.jobs._assemble import build_net

    cfg: Any = OmegaConf.load(config)
    return _called(build_net(cfg.teacher, cfg.teacher.seed).eval(), cfg.teacher.call, cfg.data)


def _called(net: torch.nn.Module, call: DictConfig, data: DictConfig) -> Runner:
    """Inputs to the answer, in PyTorch."""
    called, output = instantiate(call), TASKS[data.get("task", "classification")].output
    if hasattr(called, "listen"):
        called.listen((output,), net)

    def run(inputs: Inputs) -> Tensor:
        batch = {"image": inputs} if isinstance(inputs, Tensor) else inputs
        with torch.no_grad():
            answer: Tensor = called(net, batch)[output]
        return answer

    return run


def _facts(cfg: DictConfig, record: dict[str, Any], preprocessing: dict[str, Any], teacher: Any) -> dict[str, Any]:
    """What the page tells of the models."""
    figures = record["formats"].get(cfg.serve.backend, record["pytorch"])
    beside = None
    if teacher is not None:
        beside = {"name": record["teacher"]["name"], "accuracy": record["teacher"]["accuracy"], "format": "PyTorch"}
    return {
        "student": {
            "name": record["model"],
            "format": FORMATS[cfg.serve.backend].title,
            "accuracy": figures["accuracy"],
            "bytes": figures["bytes"],
        },
        "teacher": beside,
        "data": record["data"]["name"],
        "classes": preprocessing["class_names"],
        "takes": preprocessing.get("kind", "image"),
        "task": preprocessing.get("task", "classification"),
        "score": SCORES[record["task"]],
        "pair": bool(preprocessing.get("pair")),
        "mask": preprocessing.get("mask_token"),
        "max_mb": cfg.serve.max_mb,
        "max_characters": cfg.serve.max_characters,
    }
