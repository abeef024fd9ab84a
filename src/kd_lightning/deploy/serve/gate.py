"""What stands before the models: the page, and requests taken up within limits."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Collection
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kd_lightning.deploy.serve.intake import Intake, RefusedError, parse_json

# The page and its answers come from here and nowhere else.
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
# So much of an upload that is too large is still read, so that its sender gets to see the answer.
DRAIN = 256 * 2**20


class Gate:
    """ASGI middleware: ``GET /`` gives the page; what is posted to a model's path arrives there as the intake made it.

    The model behind gets JSON and never sees what strangers wrote.

    Args:
        app: The server behind.
        paths: Where models are.
        intake: Turns requests into what the models take.
        seconds: Time to send a request.
        page: HTML.
        names: Names by which the server may be called, beside numbers (IP addresses).
    """

    def __init__(
        self, app: ASGIApp, paths: Collection[str], intake: Intake, seconds: float, page: str, names: Collection[str]
    ) -> None:
        self.app, self.paths = app, frozenset(paths)
        self.names = frozenset(name.lower() for name in names)
        self.intake, self.seconds, self.page = intake, seconds, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not self._is_called(scope):
            refused = {"detail": "This server is not called so; names are given to it with serve.names=[...]."}
            await JSONResponse(refused, 421)(scope, receive, send)
        elif scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
            await HTMLResponse(self.page, headers=HEADERS)(scope, receive, send)
        elif scope["path"] in self.paths and scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_called(self, scope: Scope) -> bool:
        """Whether the Host of a request is this server's.

        A page of somebody else could let its own name lead here, and would then be allowed to read the answers. With an
        address in the place of a name it cannot; and a request without a Host is of no browser.
        """
        hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        return all(_is_address(name := _without_port(host)) or name in self.names for host in hosts)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = Request(scope, receive)
            content = await run_in_threadpool(await self._content(request))
        except ClientDisconnect:
            return
        except RefusedError as refused:
            await JSONResponse({"detail": refused.reason}, refused.status)(scope, receive, send)
            return
        body = json.dumps(content).encode()
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:  # it may be lost with the process that had taken it up
            answered = self.app(_as_json(scope, len(body)), _replay(body, receive), sending)
            await asyncio.wait_for(answered, 2 * self.seconds)
        except TimeoutError:
            if not begun:
                detail = f"There was no answer within {2 * self.seconds:g} s; send it again."
                await JSONResponse({"detail": detail}, 503)(scope, receive, send)

    async def _content(self, request: Request) -> Callable[[], dict[str, str]]:
        """What is yet to be done, away from the event loop, for the content of a request that has arrived."""
        intake = self.intake
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            body = await asyncio.wait_for(self._body(request), self.seconds)
        except TimeoutError:
            raise RefusedError(408, f"The request was not complete after {self.seconds:g} s.") from None
        if kind not in intake.kinds:
            raise RefusedError(415, f"The content type {kind or '(none)'} is not taken. {intake.how}")
        if not body:
            raise RefusedError(400, f"The request is empty. {intake.how}")
        if kind == "application/json":
            return lambda: intake.from_json(parse_json(body, intake.how))
        file = await self._upload(request, body)
        return lambda: intake.from_file(file)

    async def _body(self, request: Request) -> bytes:
        """The whole body. Of one that is too large the rest is read and forgotten: who still sends does not listen."""
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size <= self.intake.max_body:
                parts.append(part)
                continue
            parts.clear()
            if size > DRAIN:
                break
        if size > self.intake.max_body:
            raise RefusedError(413, self.intake.too_large)
        return b"".join(parts)

    async def _upload(self, request: Request, body: bytes) -> bytes:
        """The one file of a form."""

        async def stream() -> Any:
            yield body

        try:
            form = await MultiPartParser(
                request.headers, stream(), max_files=1, max_fields=10, max_part_size=self.intake.max_body
            ).parse()
        except (MultiPartException, ValueError, KeyError) as error:
            reason = getattr(error, "message", None) or "it cannot be taken apart"
            raise RefusedError(400, f"The form is broken: {str(reason).rstrip('.')}. {self.intake.how}") from None
        try:
            image = form.get("image")
            if image is None or isinstance(image, str):
                raise RefusedError(400, f'The form has no file under "image". {self.intake.how}')
            return await image.read()
        finally:
            await form.close()


def _without_port(host: str) -> str:
    """The name or address of a Host, lower case, an address of IPv6 without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _as_json(scope: Scope, length: int) -> Scope:
    """The request as if it had come as JSON."""
    kept = [(k, v) for k, v in scope["headers"] if k not in (b"content-type", b"content-length", b"transfer-encoding")]
    new = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    return {**scope, "headers": [*kept, *new]}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, then what the connection says (that it was closed)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
