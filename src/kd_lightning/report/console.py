"""Where tables are printed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120  # of what goes into a file or a pipe, which has none of its own


def console() -> Console:
    """The standard output: as wide as its terminal, or wide enough for a table of five arms."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH if wide else None)
