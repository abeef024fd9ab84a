"""How numbers and foreign strings are written, the same in every table and plot."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

DASH = "–"  # what is not known or not measured
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def listed(words: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def clean(text: object, limit: int = 60) -> str:
    """One line without control characters, direction overrides or lone surrogates, shortened with an ellipsis."""
    line = CONTROL.sub(" ", str(text)).encode("utf-8", "replace").decode("utf-8").strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without the sign: 0.972 -> '97.2'."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in points, with its sign and a true minus: -0.06 -> '−6.0'."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{100 * value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else f"{0:.{digits}f}"


def quantity(value: float | None, digits: int = 3) -> str:
    """Three significant digits with a thousands unit: 1233540 -> '1.23 M'."""
    if value is None:
        return DASH
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * (1 - 0.5 * 10**-digits):
            return f"{_significant(value / unit, digits)} {name}"
    return _significant(value, digits)


def file_size(size: float | None) -> str:
    """Bytes in decimal units: 1133000 -> '1.13 MB'."""
    if size is None:
        return DASH
    text = quantity(size)
    return text + "B" if text[-1].isalpha() else text + " B"


def milliseconds(value: float | None) -> str:
    """Three significant digits: 1.237 -> '1.24'."""
    return DASH if value is None else _significant(value, 3)


def seconds(value: float | None) -> str:
    """'8.4 s', '12 min 30 s', '3 h 05 min'."""
    if value is None:
        return DASH
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _significant(value: float, digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):.{max(0, decimals)}f}" if value % 1 or abs(value) >= 1000 else f"{value:.0f}"


def rough_size(amount: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if amount >= 0.1 * factor:
            return f"{amount / factor:,.1f} {unit}"
    return f"{amount / 1e3:,.1f} kB"


def rough_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
