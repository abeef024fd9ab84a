"""What strangers send: read and measured within limits, or refused with a reason."""

from __future__ import annotations

import json
from typing import Any, Protocol


class RefusedError(Exception):
    """A request that is not answered: an HTTP status and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Intake(Protocol):
    """Turns requests into what a model takes.

    Attributes:
        how: How a request is made, in one sentence.
        kinds: Content types that are taken.
        max_body: Largest request, in bytes.
        too_large: Why a larger one is refused.
    """

    how: str
    kinds: tuple[str, ...]
    max_body: int
    too_large: str

    def from_json(self, content: Any) -> dict[str, str]:
        """What the model behind gets for a JSON value, or ``RefusedError``."""
        ...

    def from_file(self, data: bytes) -> dict[str, str]:
        """What it gets for a file that was sent in a form, or ``RefusedError``."""
        ...


def parse_json(body: bytes, how: str) -> Any:
    """The value that a body holds.

    Raises:
        RefusedError: It is not JSON in UTF-8.
    """
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        raise RefusedError(400, f"The body is not JSON in UTF-8. {how}") from None


def text_under(content: Any, key: str, how: str) -> str:
    """The text under a key.

    Raises:
        RefusedError: There is none.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, str):
        raise RefusedError(400, f'The JSON has no text under "{key}". {how}')
    return found
