"""``job=serve run=<folder>``: the exported student, and its teacher beside it, behind HTTP with a page to try them."""

from __future__ import annotations

import importlib.util
import logging
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

from kd_lightning.config.command import Command
from kd_lightning.config.schema_jobs import Serve
from kd_lightning.config.trust import carried
from kd_lightning.deploy.folder import RECORD, exported_file, read_preprocessing
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.deploy.serve.models import facts, intake_for, picture_model, teacher_beside, text_model
from kd_lightning.files.artifact import required_run
from kd_lightning.files.checksum import read_record

log = logging.getLogger("kd_lightning")

HOSTS = ("127.0.0.1", "0.0.0.0", "::")


def run(command: Command, folder: Path) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ModuleNotFoundError: LitServe is not installed.
        ValueError: A setting is wrong, or the port is taken.
        FileNotFoundError: The run has no export in this format.
    """
    settings = _checked(command.settings.serve)
    path = exported_file(required_run(command.settings), settings.backend, "serve.backend")
    export, preprocessing = path.parent, read_preprocessing(path.parent)
    texts = preprocessing.get("kind") == "text"
    if not texts and preprocessing["image_size"] is None:
        raise ValueError("This student takes feature vectors; job=serve is for students that take pictures or texts.")
    record = read_record(export / RECORD)
    teacher = teacher_beside(record, export) if settings.teacher else None

    from kd_lightning.deploy.serve.server import ModelAPI, build_server, serve

    options = {"max_batch_size": settings.batch_size, "batch_timeout": settings.timeout_ms / 1000}
    runners = {"/predict": partial(FORMATS[settings.backend].load, path)}
    if teacher is not None:
        runners["/predict/teacher"] = teacher
    model = partial(text_model if texts else picture_model, settings, export)
    apis = [ModelAPI(carried(partial(model, load)), api_path=at, **options) for at, load in runners.items()]
    told = facts(settings, record, preprocessing, teacher)
    intake = intake_for(settings, preprocessing)
    names = ("localhost", socket.gethostname(), socket.getfqdn(), *settings.names)
    server = build_server(apis, intake, settings.request_timeout_s, told, settings.workers, names)
    address = f"http://{settings.host if ':' not in settings.host else '[::1]'}:{settings.port}"
    log.info(f"Starting {address} ...")
    ready = partial(log.info, f"Ready: {address}  (Ctrl-C stops it)")
    serve(server, settings.host, settings.port, ready, settings.request_timeout_s)
    log.info("Stopped.")


def _checked(serve: Serve) -> Serve:
    """The settings, where they can be served; else refused before anything is started."""
    if importlib.util.find_spec("litserve") is None:
        raise ModuleNotFoundError("job=serve needs LitServe: pip install 'kd-lightning[serve]' (or litserve).")
    if serve.host == "localhost":
        serve = replace(serve, host="127.0.0.1")
    if serve.host not in HOSTS:
        raise ValueError(f"serve.host={serve.host}: choose 127.0.0.1 (this machine only), 0.0.0.0 or :: (all).")
    if not 1024 <= serve.port <= 65535:
        raise ValueError(f"serve.port={serve.port}: choose a port from 1024 to 65535.")
    for name in ("batch_size", "workers", "top", "max_pixels", "max_characters", "new_tokens"):
        if getattr(serve, name) < 1:
            raise ValueError(f"serve.{name} must be at least 1, not {getattr(serve, name)}.")
    for name in ("max_mb", "request_timeout_s"):
        if not getattr(serve, name) > 0:
            raise ValueError(f"serve.{name} must be positive, not {getattr(serve, name)}.")
    with socket.socket(socket.AF_INET6 if ":" in serve.host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((serve.host, serve.port))
        except OSError as error:
            raise ValueError(f"serve.port={serve.port} cannot be used ({error.strerror}): choose another.") from None
    return serve
