"""The server as it runs: a process of its own on loopback, under load, under attack, in a browser, and stopped."""

import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from kd_lightning import load_run
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.tasks.classification import top_classes
from tests.jobs.browser import Browser, stop
from tests.jobs.finished import finished_run, pictures

START = 120  # seconds; it takes about ten on a free core


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


class Server:
    """``job=serve`` as a process that leads its own session."""

    def __init__(self, folder: Path, run: Path, *arguments: str) -> None:
        self.port, self.log = free_port(), folder / "serve.log"
        command = [sys.executable, "-m", "kd_lightning", "job=serve", f"run={run}", f"serve.port={self.port}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + START
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def request(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def left(self) -> list[str]:
        """Processes of the session that still run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                _, _, rest = stat.read_text().rpartition(")")
            except OSError:
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.process.pid and state != "Z":
                found.append(stat.parent.name)
        return found

    def wait_until_gone(self) -> None:
        """Helpers of multiprocessing end a moment after their parent."""
        end = time.monotonic() + 20
        while self.left():
            assert time.monotonic() < end, self.left()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def finished(folder):
    return finished_run(folder, "export.formats=[onnx]")


@pytest.fixture(scope="module")
def server(folder, finished):
    started = Server(folder, finished, "serve.max_mb=1", "serve.max_pixels=1000000")
    try:
        started.wait_for("Ready:")
        yield started
    finally:
        stop(started.process)


def form(data: bytes, name: str = "image") -> tuple[bytes, dict[str, str]]:
    """A multipart body with one file."""
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + data + b"\r\n--XX--\r\n", {"content-type": "multipart/form-data; boundary=XX"}


def as_json(data: bytes) -> tuple[bytes, dict[str, str]]:
    return json.dumps({"image": base64.b64encode(data).decode()}).encode(), {"content-type": "application/json"}


def png(width: int, height: int) -> bytes:
    """A black picture: however large, a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * min(height, 20_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_no_request_is_lost_under_load_and_all_equal_the_offline_answers(server, finished, tmp_path):
    files = [file.read_bytes() for file in pictures(tmp_path / "pictures", 10)]
    student = ExportedStudent(finished)
    offline = [student.classify(student.read(tmp_path / "pictures" / f"{i}.png"))[0] for i in range(10)]
    answers, times = {}, {}

    def client(worker: int) -> None:
        for turn in range(25):
            number = 25 * worker + turn
            send = form if number % 2 else as_json
            start = time.perf_counter()
            answers[number] = server.request("POST", "/predict", *send(files[number % 10]))
            times[number] = 1000 * (time.perf_counter() - start)

    threads = [threading.Thread(target=client, args=(worker,)) for worker in range(8)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    seconds = time.perf_counter() - start
    assert len(answers) == 200
    assert {status for status, _, _ in answers.values()} == {200}
    for number, (_, _, body) in answers.items():
        answer, expected = json.loads(body), offline[number % 10]
        assert [c["class"] for c in answer["classes"]] == [c["class"] for c in expected]
        assert [c["probability"] for c in answer["classes"]] == pytest.approx(
            [c["probability"] for c in expected], abs=2e-5
        )
    batches = [json.loads(body)["batch"] for _, _, body in answers.values()]
    assert max(batches) > 1  # requests did share batches
    cuts = statistics.quantiles(times.values(), n=100)
    print(f"\n200 requests, 8 clients: {200 / seconds:.0f} a second; ms p50 {cuts[49]:.1f}, p95 {cuts[94]:.1f}, p99"
          f" {cuts[98]:.1f}, largest {max(times.values()):.1f}; mean batch {statistics.mean(batches):.1f}")  # fmt: skip


def noise() -> bytes:
    packed = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(packed, "png")
    return packed.getvalue()


GOOD = noise()
HOSTILE = {
    "nothing": (b"", {}, 415, "content type"),
    "text": (b"hello", {"content-type": "text/plain"}, 415, "text/plain"),
    "a form without content": (b"", {"content-type": "multipart/form-data; boundary=XX"}, 400, "empty"),
    "a form without boundary": (b"x", {"content-type": "multipart/form-data"}, 400, "form is broken"),
    "a form cut short": (form(GOOD)[0][:40], form(GOOD)[1], 400, "image"),
    "another field": (*form(GOOD, "picture"), 400, 'no file under "image"'),
    "an empty file": (*form(b""), 400, "picture is empty"),
    "a file that is no picture": (*form(b"#!/bin/sh\nrm -rf /"), 422, "Not a picture"),
    "a picture cut short": (*form(GOOD[:1000]), 422, "damaged"),
    "a picture full of noise": (*form(GOOD[:40] + os.urandom(2000)), 422, "picture"),
    "a bomb": (*form(png(60_000, 60_000)), 413, "more than 1,000,000 pixels"),
    "a large picture": (*form(png(1_001, 1_000)), 413, "1001 x 1000 pixels"),
    "a thread of a picture": (*form(png(900_000, 1)), 422, "too narrow"),
    "a file that is too large": (*form(bytes(1_000_001)), 413, "1,000,001 bytes"),
    "a request that is too large": (*form(bytes(20_000_000)), 413, "too large"),
    "broken JSON": (b"{", {"content-type": "application/json"}, 400, "not JSON"),
    "no UTF-8": (b'{"image": "\xff"}', {"content-type": "application/json"}, 400, "not JSON"),
    "a deep pit of JSON": (b"[" * 500_000, {"content-type": "application/json"}, 400, "not JSON"),
    "a list": (b"[1]", {"content-type": "application/json"}, 400, '"image"'),
    "a number": (b'{"image": 7}', {"content-type": "application/json"}, 400, '"image"'),
    "no base64": (b'{"image": "%%%"}', {"content-type": "application/json"}, 400, "not base64"),
    "a file name": (b'{"image": "/etc/passwd"}', {"content-type": "application/json"}, 400, "not base64"),
    "a packed body": (zlib.compress(b"{}"), {"content-type": "application/json"}, 400, "not JSON"),
    "pixels past the gate": (b'{"pixels": "AAAA"}', {"content-type": "application/json"}, 400, '"image"'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_answered_is_refused_with_a_reason(server, name):
    body, headers, expected, words = HOSTILE[name]
    status, _, answer = server.request("POST", "/predict", body, headers)
    assert (status, words in json.loads(answer)["detail"]) == (expected, True), answer


def test_after_all_that_it_still_answers(server):
    assert server.request("GET", "/health")[::2] == (200, b"ok")
    assert server.request("POST", "/predict", *form(GOOD))[0] == 200
    for path, method, status in (("/predict", "GET", 405), ("/elsewhere", "GET", 404), ("/docs", "GET", 404)):
        assert server.request(method, path)[0] == status
    assert "Traceback" not in server.log.read_text()


def test_a_killed_worker_is_started_again(server):
    def answered(path):
        status, _, answer = server.request("POST", path, *form(GOOD))
        assert status in (200, 503, 504), answer
        return status == 200

    def command_line(pid):
        return Path(f"/proc/{pid}/cmdline").read_text()

    worker = min((pid for pid in server.left() if "spawn_main" in command_line(pid)), key=int)
    os.kill(int(worker), signal.SIGKILL)
    server.wait_for("has ended; another one is started")
    end = time.monotonic() + START
    while not (answered("/predict") and answered("/predict/teacher") and server.request("GET", "/health")[0] == 200):
        assert time.monotonic() < end, server.log.read_text()
        time.sleep(0.2)
    assert worker not in server.left()


def test_a_page_that_lets_its_own_name_lead_here_reads_nothing(server):
    for path in ("/", "/info", "/health"):
        status, _, answer = server.request("GET", path, headers={"host": "rebound.example"})
        assert (status, b"serve.names" in answer) == (421, True)


@pytest.mark.slow
def test_without_the_process_that_takes_requests_it_ends(finished, tmp_path):
    started = Server(tmp_path, finished, "serve.teacher=false")
    try:
        started.wait_for("Ready:")
        listening = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text().split()
        inside = [pid for pid in listening if "spawn_main" not in Path(f"/proc/{pid}/cmdline").read_text()]
        trackers = [pid for pid in inside if "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(max(int(pid) for pid in inside if pid not in trackers), signal.SIGKILL)  # the last one that was forked
        assert started.process.wait(60) == 1
        assert "The process that takes requests has ended" in started.log.read_text()
        started.wait_until_gone()
    finally:
        stop(started.process)


def test_a_body_in_chunks_of_unknown_length_is_measured_too(server):
    status, _, answer = server.request("POST", "/predict", iter([bytes(500_000)] * 10), form(b"")[1])
    assert (status, "too large" in json.loads(answer)["detail"]) == (413, True)


def test_the_teacher_answers_as_it_does_offline(server, finished, tmp_path):
    picture = pictures(tmp_path, 1)[0]
    record = json.loads((finished / "export" / "export.json").read_text())
    teacher, student = load_run(record["teacher"]["folder"]).net, ExportedStudent(finished)
    expected = top_classes(teacher(student.read(picture)).detach(), student.preprocessing["class_names"], 3)[0]
    status, _, body = server.request("POST", "/predict/teacher", *form(picture.read_bytes()))
    answer = json.loads(body)
    assert status == 200
    assert [c["class"] for c in answer["classes"]] == [c["class"] for c in expected]
    assert answer["probability"] == pytest.approx(expected[0]["probability"], abs=1e-5)


def test_the_page_loads_nothing_from_elsewhere(server):
    status, headers, body = server.request("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"http://" not in body
    assert b"https://" not in body
    assert "/tmp" not in server.request("GET", "/info")[2].decode()  # nor does it tell where files lie


@pytest.mark.browser
def test_a_picture_is_tried_in_a_browser(server, finished, tmp_path):
    picture = pictures(tmp_path, 1)[0]
    student = ExportedStudent(finished)
    expected = student.classify(student.read(picture))[0]
    with Browser(tmp_path / "profile") as page:
        page.send("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        page.wait("document.querySelector('#teacher h2') !== null")
        page.choose("#file", picture)
        page.wait("document.querySelector('#verdict').textContent !== ''")
        shown = page.evaluate("document.querySelector('#student .answer').textContent")
        bars = page.evaluate("[...document.querySelectorAll('#student li')].map(item => item.innerText)")
        assert shown == expected[0]["class"]
        assert [bar.split()[0] for bar in bars] == [c["class"] for c in expected]
        assert [float(bar.split()[1]) for bar in bars] == pytest.approx(
            [100 * c["probability"] for c in expected], abs=0.06
        )
        agree = page.evaluate("document.querySelector('#teacher .answer').textContent") == shown
        assert ("agree" in page.evaluate("document.querySelector('#verdict').textContent")) == agree
        assert "ms in the model" in page.evaluate("document.querySelector('#teacher .time').textContent")

        assert page.names("button") == ["Choose a picture"]
        assert {"Picture", "Student resnet8", "Teacher resnet8"} <= set(page.names("region"))
        grounds = []
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds[0] != grounds[1]

        (tmp_path / "broken.png").write_text("no picture")
        page.choose("#file", tmp_path / "broken.png")
        page.wait("!document.querySelector('#error').hidden")
        assert "Not a picture" in page.evaluate("document.querySelector('#error').textContent")
        outside = [url for url in page.requests if f"//127.0.0.1:{server.port}/" not in url]
        assert not [url for url in outside if not url.startswith(("data:", "about:"))]
    assert page.requests


def test_sigterm_stops_everything_and_is_no_failure(server, folder):
    assert len(server.left()) > 3
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log.read_text()
    assert "Stopped." in server.log.read_text()
    server.wait_until_gone()
    status = max(folder.glob("outputs/*/*/status.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(status.read_text())["state"] == "finished"


def test_sigint_while_it_starts_stops_everything(finished, tmp_path):
    starting = Server(tmp_path, finished, "serve.teacher=false")
    try:
        starting.wait_for("Starting")
        time.sleep(1)
        starting.process.send_signal(signal.SIGINT)
        assert starting.process.wait(60) == 0, starting.log.read_text()
        starting.wait_until_gone()
    finally:
        stop(starting.process)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve.host=example.org"], "127.0.0.1 (this machine only)"),
        (["serve.port=80"], "from 1024 to 65535"),
        (["serve.batch_size=0"], "at least 1"),
        (["serve.max_mb=0"], "must be positive"),
        (["serve.backend=onnx_int8"], "export.formats=[onnx_int8]"),
        (["serve.backend=onx"], "Did you mean onnx"),
    ],
)
def test_what_cannot_be_served_is_said(cli, finished, arguments, words):
    outcome = cli("job=serve", f"run={finished}", *arguments)
    assert (outcome.code, words in outcome.text) == (1, True), outcome.text


def test_a_taken_port_and_a_missing_extra_are_said(cli, finished, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = cli("job=serve", f"run={finished}", f"serve.port={taken.getsockname()[1]}")
    assert (outcome.code, "choose another" in outcome.text) == (1, True), outcome.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = cli("job=serve", f"run={finished}")
    assert (outcome.code, "kd-lightning[serve]" in outcome.text) == (1, True), outcome.text
