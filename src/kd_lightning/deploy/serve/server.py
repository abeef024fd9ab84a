"""Student and teacher behind HTTP, by LitServe: batches, workers, health."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing.connection
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import litserve
from starlette.responses import JSONResponse

from kd_lightning.deploy.serve.gate import Gate
from kd_lightning.deploy.serve.intake import Intake
from kd_lightning.deploy.serve.patience import patient_protocol

HERE = Path(__file__).parent

log = logging.getLogger("kd_lightning")


class Model(Protocol):
    """What answers, in a process of its own.

    Attributes:
        example: An input, to run the model once before the first request.
    """

    example: Any

    def decode(self, request: dict[str, str]) -> Any:
        """What the intake made of a request, as an input."""
        ...

    def answer(self, inputs: list[Any]) -> list[dict[str, Any]]:
        """An answer for each input; ``error`` in it where there is none."""
        ...


class ModelAPI(litserve.LitAPI):  # type: ignore[misc]
    """A model at one path.

    Args:
        load: Gives the model, in the worker's own process.
        options: LitServe's: api_path, max_batch_size, batch_timeout (seconds).
    """

    def __init__(self, load: Callable[[], Model], **options: Any) -> None:
        super().__init__(**options)
        self._load = load

    def setup(self, device: str) -> None:
        """Load the model and run it once, so that the first request is no slower than the others."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
        self._model = self._load()
        self.predict([self._model.example])

    def decode_request(self, request: dict[str, str]) -> Any:
        """A request from the gate to an input."""
        return self._model.decode(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Inputs as they are: the model makes the batch."""
        return inputs

    def predict(self, inputs: Any) -> Any:
        """Answers for a list of inputs, or for a single one."""
        one = not isinstance(inputs, list)
        start = time.perf_counter()
        answers = self._model.answer([inputs] if one else inputs)
        spent = {"milliseconds": round(1000 * (time.perf_counter() - start), 3), "batch": len(answers)}
        full = [{**answer.get("classes", [{}])[0], **answer, **spent} for answer in answers]
        return full[0] if one else full

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of a batch."""
        return output

    def encode_response(self, output: dict[str, Any]) -> Any:
        """An answer as it is, or why there is none."""
        return JSONResponse({"detail": output["error"]}, 422) if "error" in output else output


class Server(litserve.LitServer):  # type: ignore[misc]
    """LitServe's, which says that a worker ended, and ends where the process that takes requests does.

    Attributes:
        lost: That one has ended without having been stopped.
    """

    lost = False
    _stopping = False

    def launch_single_inference_worker(self, lit_api: Any, worker_id: int) -> Any:
        """Start a worker in the place of one that ended."""
        log.warning(f"The process that ran {lit_api.api_path} has ended; another one is started.")
        return super().launch_single_inference_worker(lit_api, worker_id)

    def _start_server(self, *args: Any, **options: Any) -> dict[int, Any]:
        started: dict[int, Any] = super()._start_server(*args, **options)
        sentinels = [one.sentinel for one in started.values()]
        pid = os.getpid()

        def watch() -> None:
            multiprocessing.connection.wait(sentinels)
            time.sleep(1.0)  # Ctrl-C reaches it and this process at once
            if not self._stopping:
                self.lost = True
                os.kill(pid, signal.SIGTERM)

        threading.Thread(target=watch, daemon=True, name="watch").start()
        return started

    def _perform_graceful_shutdown(self, *args: Any, **options: Any) -> None:
        self._stopping = True
        super()._perform_graceful_shutdown(*args, **options)


def build_server(
    apis: list[ModelAPI], intake: Intake, seconds: float, facts: dict[str, Any], workers: int, names: Sequence[str]
) -> Server:
    """The server with its page; not started yet.

    Args:
        apis: The student's, and the teacher's where there is one.
        intake: Turns requests into what the models take.
        seconds: Time to send a request, and for it to be taken up.
        facts: What ``GET /info`` tells under ``model``; the page reads it.
        workers: Processes for each model.
        names: Names by which it may be called.
    """
    gate = {"paths": [api.api_path for api in apis], "intake": intake, "seconds": seconds, "names": tuple(names)}
    return Server(
        apis,
        accelerator="cpu",
        workers_per_device=workers,
        timeout=seconds,
        model_metadata=facts,
        middlewares=[(Gate, {**gate, "page": read_page()})],
        restart_workers=True,
        disable_openapi_url=True,  # its page would load scripts from elsewhere
    )


def read_page() -> str:
    """The page, style and script in it: it loads nothing."""
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js"):
        page = page.replace(f"{{{{{name}}}}}", (HERE / name).read_text(encoding="utf-8").rstrip())
    return page


def serve(server: Server, host: str, port: int, ready: Callable[[], None], seconds: float) -> None:
    """Serve until SIGINT or SIGTERM; leaves no process behind.

    A process that runs a model is started again when it ends; where the one that takes requests ends, all do.

    Args:
        server: From ``build_server``.
        host: Address to listen at.
        port: Its port.
        ready: Called once the first request can be answered.
        seconds: Time to send the headers of a request.

    Raises:
        ValueError: The process that takes requests has ended.
    """
    for name in ("litserve", "uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    stopping = threading.Event()
    threading.Thread(target=_announce, args=(host, port, ready, stopping), daemon=True).start()
    try:
        with _stopped_by_signals():
            quietly: dict[str, Any] = {"log_level": "critical", "generate_client_file": False}
            server.run(host, port, num_api_servers=1, http=patient_protocol(seconds), **quietly)
    except KeyboardInterrupt:
        pass
    finally:
        stopping.set()
        _stop_children()
    if server.lost:
        raise ValueError("The process that takes requests has ended (out of memory?): start job=serve again.")


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
