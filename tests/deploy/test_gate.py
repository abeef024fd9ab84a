"""The gate alone, without a server: what comes through, what is refused, and that it waits for nobody forever."""

import asyncio
import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.deploy.gate import Gate
from kd_lightning.deploy.pictures import Limits
from tests.jobs.finished import pictures

PREPROCESSING = {"image_size": 8, "channels": 3, "decode_size": None}
LIMITS = Limits(max_bytes=20_000, max_pixels=1_000_000, seconds=5)


def post(chunks, headers, limits=LIMITS, forever=False):
    """Status and JSON of a POST to /predict whose body comes in these chunks; the model behind echoes what it got."""
    incoming = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if not forever:
        incoming.append({"type": "http.request", "body": b"", "more_body": False})
    sent = []

    async def receive():
        if incoming:
            return incoming.pop(0)
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def model(scope, receive, send):
        body = (await receive())["body"]
        assert dict(scope["headers"])[b"content-length"] == str(len(body)).encode()
        assert dict(scope["headers"])[b"content-type"] == b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    gate = Gate(model, ["/predict"], PREPROCESSING, limits, "page")
    scope = {
        "type": "http", "method": "POST", "path": "/predict", "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }  # fmt: skip
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


JSON = {"content-type": "application/json"}


def as_json(data: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(data).decode()}).encode()


def test_a_picture_arrives_as_its_pixels(tmp_path):
    picture = pictures(tmp_path, 1)[0]
    expected = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)
    for body in (
        as_json(picture.read_bytes()),
        as_json(picture.read_bytes()).replace(b'": "', b'": "data:image/png;base64,'),
    ):
        status, got = post([body[:10], body[10:]], JSON)
        pixels = np.frombuffer(base64.b64decode(got["pixels"]), np.uint8).reshape(3, 8, 8)
        assert status == 200
        assert np.array_equal(pixels, expected)


def test_who_never_ends_is_sent_away():
    limits = Limits(20_000, 1_000_000, seconds=0.1)
    status, answer = post([b'{"image": '], JSON, limits, forever=True)
    assert status == 408
    assert "not complete" in answer["detail"]


def test_who_sends_without_end_is_sent_away():
    chunk = bytes(2**20)
    status, answer = post([chunk] * 300, JSON, forever=True)
    assert status == 413
    assert "20,000 bytes" in answer["detail"]


def test_the_size_of_the_picture_counts_and_not_that_of_its_base64():
    status, answer = post([as_json(bytes(19_999))], JSON)
    assert (status, answer["detail"].split()[0]) == (422, "Not")
    status, answer = post([as_json(bytes(20_001))], JSON)
    assert (status, "20,001" in answer["detail"]) == (413, True)


@pytest.mark.parametrize(("size", "status"), [((1000, 1000), 200), ((1001, 1000), 413), ((300_000, 1), 422)])
def test_pixels_are_counted_before_they_are_unpacked(tmp_path, size, status, monkeypatch):
    Image.new("1", size).save(tmp_path / "large.png")
    if status != 200:
        monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    assert post([as_json((tmp_path / "large.png").read_bytes())], JSON)[0] == status


def test_programs_in_pictures_are_not_started(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    status, answer = post([as_json(eps)], JSON)
    assert status == 422
    assert "Not a picture" in answer["detail"]
