"""A connection whose headers never end is given up; one that waits for its answer is not."""

import asyncio
import socket

import uvicorn

from kd_lightning.deploy.serve.patience import patient_protocol

WHOLE = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def slow(scope, receive, send):
    """Answers after twice the time that headers have."""
    await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def talk(*parts: tuple[bytes, float]) -> bytes:
    """What comes back for bytes, each sent after a pause, until the connection is closed or it was quiet for long."""
    place = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(slow, http=patient_protocol(0.3), lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([place]))
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*place.getsockname())
    found = b""

    async def read() -> None:
        nonlocal found
        while part := await reader.read(1000):
            found += part
        found += b"<closed>"

    reading = asyncio.create_task(read())
    for part, pause in parts:
        await asyncio.sleep(pause)
        writer.write(part)
    await asyncio.wait([reading], timeout=1.0)
    got = found
    writer.close()
    server.should_exit = True
    await running
    return got


def test_headers_that_do_not_end_are_given_up():
    for parts in ([], [(WHOLE[:-2], 0)], [(WHOLE[i : i + 1], 0.05) for i in range(len(WHOLE) - 10)]):
        found = asyncio.run(talk(*parts))
        assert found.startswith(b"HTTP/1.1 408 ")
        assert found.endswith(b"<closed>")


def test_whole_requests_are_answered_one_after_the_other_however_slowly():
    found = asyncio.run(talk((WHOLE[:9], 0), (WHOLE[9:], 0.1), (WHOLE, 0.8)))
    assert found.count(b"HTTP/1.1 200 OK") == 2
    found = asyncio.run(talk((WHOLE, 0), (WHOLE[:9], 0.8)))  # the second one never ends
    assert found.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 408 " in found
