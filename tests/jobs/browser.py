"""A real Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Browser:
    """One headless page; ``with Browser(folder) as page``."""

    def __init__(self, profile: Path) -> None:
        self.profile, self.requests, self._id = profile, [], 0

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
                   "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={self.profile}",
                   "--window-size=1000,800", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            [CHROMIUM, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            port = _wait(lambda: (self.profile / "DevToolsActivePort").read_text().splitlines()[0], 60)
            pages = _wait(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10)), 60)
            target = next(page for page in pages if page["type"] == "page")
            self._socket = connect(target["webSocketDebuggerUrl"], max_size=None, open_timeout=60)
            for domain in ("Page", "Network", "DOM", "Runtime", "Accessibility"):
                self.send(f"{domain}.enable")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._stop()

    def _stop(self) -> None:
        stop(self._process)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result; requests that the page made meanwhile are noted in ``requests``."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._id:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until the expression is true."""
        return _wait(lambda: self.evaluate(script) or _fail(script), seconds)

    def choose(self, selector: str, file: Path) -> None:
        """Put a file into a file input, as a user's dialog does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def names(self, role: str) -> list[str]:
        """What a screen reader calls everything of this role."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [n.get("name", {}).get("value", "") for n in nodes if n.get("role", {}).get("value") == role]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


def stop(process: subprocess.Popen, seconds: float = 15) -> int:
    """End a process that leads its own session, and all that it started: SIGTERM, then SIGKILL."""
    import os

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    return process.wait()


def _wait(what: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            return what()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _fail(script: str) -> None:
    raise AssertionError(f"never true: {script}")
