"""Connections that do not end by themselves: a request whose headers never come to an end is given up."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

LATE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"The headers were not complete in time.\n"
)


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which has a time for idle connections but none for headers.

    Args:
        seconds: From the first byte, or the opening of the connection, to the end of the headers.
    """

    class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _clock: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_busy():
                self._stop()
            elif self._clock is None:
                self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _is_busy(self) -> bool:
            """Whether the headers of a request are complete that has no whole answer yet."""
            return self.cycle is not None and not self.cycle.response_complete

        def _start(self) -> None:
            self._clock = self.loop.call_later(seconds, self._give_up)

        def _stop(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _give_up(self) -> None:
            self._clock = None
            if not self._is_busy() and not self.transport.is_closing():
                self.transport.write(LATE)
                self.transport.close()

    return PatientProtocol
