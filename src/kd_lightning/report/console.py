"""Where tables are printed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from kd_lightning.core.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDTH = 120  # of what goes into a file or a pipe, which has none of its own


def console() -> Console:
    """The standard output: as wide as its terminal, or wide enough for a table of five arms.

    Names and texts of data steer no terminal from there: control characters are spelt out.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Plain(width=WIDTH if wide else None)
