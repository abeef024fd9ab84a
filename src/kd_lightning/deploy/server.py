"""Student and teacher behind HTTP, by LitServe: batches, workers, health."""

from __future__ import annotations

import base64
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import litserve
import numpy as np
import torch
from torch import Tensor

from kd_lightning.data.preprocess import as_size, normalise, to_float
from kd_lightning.deploy.gate import Gate
from kd_lightning.deploy.pictures import Limits
from kd_lightning.deploy.student import top_classes

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")


class PictureAPI(litserve.LitAPI):  # type: ignore[misc]
    """A classifier at one path.

    Args:
        load: Gives, in the worker's own process, what turns normalised images (B, C, H, W) into logits.
        preprocessing: As in preprocessing.json.
        top: How many classes an answer names.
        options: LitServe's: api_path, max_batch_size, batch_timeout (seconds).
    """

    def __init__(
        self, load: Callable[[], Callable[[Tensor], Tensor]], preprocessing: dict[str, Any], top: int, **options: Any
    ) -> None:
        super().__init__(**options)
        self._load, self._preprocessing, self._top = load, preprocessing, top

    def setup(self, device: str) -> None:
        """Load the model and run it once, so that the first request is no slower than the others."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
        height, width = as_size(self._preprocessing["image_size"])
        self._shape = (int(self._preprocessing["channels"]), height, width)
        self._mean, self._std = (torch.tensor(self._preprocessing[key]) for key in ("mean", "std"))
        self._run = self._load()
        self.predict(torch.zeros(1, *self._shape, dtype=torch.uint8))

    def decode_request(self, request: dict[str, str]) -> Tensor:
        """Pixels from the gate to uint8 (C, H, W)."""
        pixels = np.frombuffer(base64.b64decode(request["pixels"]), dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(self._shape).copy())

    def batch(self, inputs: list[Tensor]) -> Tensor:
        """Pictures (C, H, W) to a batch."""
        return torch.stack(inputs)

    def predict(self, inputs: Tensor) -> list[dict[str, Any]] | dict[str, Any]:
        """Answers for a batch (B, C, H, W) of pixels, or for one picture (C, H, W)."""
        one = inputs.dim() == 3
        start = time.perf_counter()
        logits = self._run(normalise(to_float(inputs[None] if one else inputs), self._mean, self._std))
        spent = {"milliseconds": round(1000 * (time.perf_counter() - start), 3), "batch": len(logits)}
        answers = [
            {"class": classes[0]["class"], "probability": classes[0]["probability"], "classes": classes, **spent}
            for classes in top_classes(logits, self._preprocessing["class_names"], self._top)
        ]
        return answers[0] if one else answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of a batch."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """An answer as it is."""
        return output


def build_server(
    apis: list[PictureAPI], preprocessing: dict[str, Any], limits: Limits, facts: dict[str, Any], workers: int
) -> litserve.LitServer:
    """The server with its page; not started yet.

    Args:
        apis: The student's, and the teacher's where there is one.
        preprocessing: As in preprocessing.json.
        limits: What a request may cost.
        facts: What ``GET /info`` tells under ``model``; the page reads it.
        workers: Processes for each model.
    """
    gate = {"paths": [api.api_path for api in apis], "preprocessing": preprocessing, "limits": limits}
    return litserve.LitServer(
        apis,
        accelerator="cpu",
        workers_per_device=workers,
        timeout=limits.seconds,
        model_metadata=facts,
        middlewares=[(Gate, {**gate, "page": PAGE.read_text()})],
        disable_openapi_url=True,  # its page would load scripts from elsewhere
    )


def serve(server: litserve.LitServer, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; leaves no process behind.

    Args:
        server: From ``build_server``.
        host: Address to listen at.
        port: Its port.
        ready: Called once the first request can be answered.
    """
    for name in ("litserve", "uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    stopping = threading.Event()
    threading.Thread(target=_announce, args=(host, port, ready, stopping), daemon=True).start()
    try:
        with _stopped_by_signals():
            server.run(host, port, num_api_servers=1, log_level="critical", generate_client_file=False)
    except KeyboardInterrupt:
        pass
    finally:
        stopping.set()
        _stop_children()


def _announce(host: str, port: int, ready: Callable[[], None], stopping: threading.Event) -> None:
    """Wait until /health says ok."""
    address = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    while not stopping.wait(0.3):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}:{port}/health", timeout=2):
            ready()
            return


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does; also where a shell started the process with SIGINT ignored."""
    pid = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a forked child that has no handler of its own yet
            os._exit(0)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # once is enough
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_children(seconds: float = 5.0) -> None:
    """End what LitServe may have left, as when it is stopped while it starts."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
