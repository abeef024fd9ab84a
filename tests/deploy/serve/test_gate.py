"""The gate alone, without a server: what comes through, what is refused, and that it waits for nobody forever."""

import asyncio
import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.deploy.serve.gate import Gate
from kd_lightning.deploy.serve.pictures import Limits, PictureIntake
from kd_lightning.deploy.serve.text_intake import TextIntake
from tests.jobs.finished import pictures

PREPROCESSING = {"image_size": 8, "channels": 3, "decode_size": None}
PICTURES = PictureIntake(PREPROCESSING, Limits(max_bytes=20_000, max_pixels=1_000_000))
TEXTS = TextIntake({"task": "classification"}, max_characters=1_000)


def post(chunks, headers, intake=PICTURES, seconds=5.0, forever=False, lost=False):
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
        if lost:
            await asyncio.sleep(3600)
        assert dict(scope["headers"])[b"content-length"] == str(len(body)).encode()
        assert dict(scope["headers"])[b"content-type"] == b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    gate = Gate(model, ["/predict"], intake, seconds, "page", ["localhost"])
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
    status, answer = post([b'{"image": '], JSON, seconds=0.1, forever=True)
    assert status == 408
    assert "not complete" in answer["detail"]


def test_who_waits_for_a_process_that_was_killed_is_told():
    status, answer = post([json.dumps({"text": "a"}).encode()], JSON, TEXTS, seconds=0.1, lost=True)
    assert (status, "no answer within 0.2 s" in answer["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("192.168.1.7", 200), ("LOCALHOST:8000", 200), ("localhost", 200),
     ("evil.example", 421), ("evil.example:8000", 421), ("127.0.0.1.evil.example", 421), ("", 421)],
)  # fmt: skip
def test_who_calls_it_by_another_name_is_refused(host, status):
    body = json.dumps({"text": "a"}).encode()
    assert post([body], {**JSON, "host": host}, TEXTS)[0] == status


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


def test_a_text_arrives_as_it_was_sent():
    text = 'Grüße\n\t\U0001f600 \u200d <b>"x"</b>'
    for body in (
        json.dumps({"text": text, "more": 1}).encode(),
        json.dumps({"text": text}, ensure_ascii=False).encode(),
    ):
        assert post([body[:12], body[12:]], JSON, TEXTS) == (200, {"text": text})
    pairs = TextIntake({"task": "classification", "pair": True}, 1_000)
    both = {"text": "a", "pair": "b"}
    assert post([json.dumps(both).encode()], JSON, pairs) == (200, both)
    assert post([b'{"text": "a"}'], JSON, pairs)[0] == 400


def test_the_longest_text_comes_through_however_it_is_written():
    longest = "\U0001f600" * 1_000
    assert post([json.dumps({"text": longest}).encode()], JSON, TEXTS)[0] == 200
    status, answer = post([json.dumps({"text": longest + "x"}).encode()], JSON, TEXTS)
    assert (status, "1,001 characters; at most 1,000" in answer["detail"]) == (413, True)


HOSTILE = {
    "nothing": (b"", JSON, 400, "empty"),
    "a form": (b"--X--", {"content-type": "multipart/form-data; boundary=X"}, 415, "multipart/form-data"),
    "plain text": (b"a text", {"content-type": "text/plain"}, 415, "text/plain"),
    "no type": (b'{"text": "a"}', {}, 415, "(none)"),
    "broken JSON": (b'{"text": ', JSON, 400, "not JSON"),
    "no UTF-8": (b'{"text": "\xff"}', JSON, 400, "not JSON in UTF-8"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), JSON, 400, "not JSON in UTF-8"),
    "a pit": (b"[" * 60_000, JSON, 400, "not JSON"),
    "a long number": (b'{"text": ' + b"1" * 60_000 + b"}", JSON, 400, "not JSON"),
    "a list": (b'["a"]', JSON, 400, 'under "text"'),
    "no text": (b'{"texts": "a"}', JSON, 400, 'under "text"'),
    "a number": (b'{"text": 7}', JSON, 400, 'under "text"'),
    "several texts": (b'{"text": ["a", "b"]}', JSON, 400, 'under "text"'),
    "null": (b'{"text": null}', JSON, 400, 'under "text"'),
    "an empty text": (b'{"text": ""}', JSON, 400, "is empty"),
    "white space": (b'{"text": " \\n\\u00a0"}', JSON, 400, "is empty"),
    "a null character": (b'{"text": "ab\\u0000"}', JSON, 422, "U+0000) at position 3"),
    "an escape sequence": (b'{"text": "\\u001b[31mred"}', JSON, 422, "U+001B"),
    "half a pair": (b'{"text": "\\ud83d"}', JSON, 422, "half a surrogate pair (U+D83D)"),
    "a body that is too large": (b'{"text": "' + b"x" * 200_000 + b'"}', JSON, 413, "at most 1,000 characters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_texts_that_cannot_be_answered_are_refused_with_a_reason(name):
    body, headers, expected, words = HOSTILE[name]
    status, answer = post([body], headers, TEXTS)
    assert (status, words in answer["detail"]) == (expected, True), answer


def test_a_masked_language_model_needs_a_mask():
    masked = TextIntake({"task": "masked_lm", "mask_token": "[MASK]"}, 100)
    assert post([b'{"text": "an [MASK]"}'], JSON, masked) == (200, {"text": "an [MASK]"})
    status, answer = post([b'{"text": "an apple"}'], JSON, masked)
    assert (status, answer["detail"]) == (422, "The text has no [MASK] to be filled in.")
