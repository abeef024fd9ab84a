"""A run that was stopped from outside."""

from __future__ import annotations


class UserAbortError(Exception):
    """The run was stopped from outside: Ctrl-C (130) or SIGTERM (143)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LostProcessError(RuntimeError):
    """Another process of a distributed training has ended."""
