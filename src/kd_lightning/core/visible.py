"""Text that somebody else wrote, as a terminal or a page may show it: what would steer them is spelt out."""

from __future__ import annotations

import logging
import re

# Control characters but tab and line end, line separators, marks that turn the direction, halves of a character.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with control characters as Python spells them.

    Example:
        >>> print(visible("\x1b[2Jcat"))
        \x1b[2Jcat
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class VisibleRecords(logging.Filter):
    """Lets no line of a log steer the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the message, and keeps every record."""
        said = record.getMessage()
        if _STEERING.search(said):
            record.msg, record.args = visible(said), ()
        return True


_RECORDS = VisibleRecords()


def install() -> None:
    """Let all handlers of the root logger write what is visible."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_RECORDS)
