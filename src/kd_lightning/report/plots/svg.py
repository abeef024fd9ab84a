"""Figures as inline SVG that takes its colours from the page, so that one picture suits light and dark."""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from kd_lightning.comparison.results import Arm, Comparison
from kd_lightning.measures import format as fmt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#0a0b0c"  # stands for currentColor while matplotlib draws
FULL, HALF = 9.6, 4.7  # inches; the page shows an inch as about 104 pixels
# Okabe and Ito's palette, safe for the colour-blind; the page redefines the variables in the dark.
COLOURS = {
    "teacher": "#6b7280",
    "alone": "#d98200",
    "blue": "#0072b2",
    "green": "#009e73",
    "purple": "#b8578f",
    "red": "#d55e00",
    "sky": "#56b4e9",
}
MARKERS = "D^vPX*"  # of the arms that are neither teacher (a circle) nor reference (a square)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kd",
    "text.parse_math": False,  # a dollar in a class name is no formula
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Plot:
    """A picture with its finding as title; `svg` is markup, the title is plain text."""

    title: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Look:
    """How an arm looks in every picture; `css` is the colour that the page may redefine."""

    colour: str
    css: str
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """A fixed look per arm: grey for the teacher, orange for the reference, the others in turn."""
    rest, markers = itertools.cycle(["blue", "green", "purple", "red", "sky"]), itertools.cycle(MARKERS)
    result = {}
    for arm in comparison.arms:
        plain = arm.name == comparison.reference or (comparison.reference is None and arm.alone)
        fixed = ("teacher", "o") if arm is comparison.teacher else ("alone", "s") if plain else None
        key, marker = fixed or (next(rest), next(markers))
        result[arm.name] = Look(COLOURS[key], f"var(--{key}, {COLOURS[key]})", marker)
    return result


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A transparent figure of so many inches, in the report's style; no global state of pyplot is touched."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = STYLE
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the glyph
        yield Figure(figsize=(width, height), layout="constrained", frameon=False)


def render(figure: Figure, label: str) -> str:
    """The figure as an inline `<svg>`; call it inside `drawing`."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = (
        re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", text[: text.index(">")]) + text[text.index(">") :]
    )
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S).replace(
        "<g id=", "<g data-part="
    )  # ids repeat on the page
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    # Only in styles, where no foreign string can stand; the page's font replaces the one that measured the text.
    text = re.sub(r"font(-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", _font, text)
    for key, colour in COLOURS.items():
        text = re.sub(rf"(fill|stroke): {colour}", rf"\1: var(--{key}, {colour})", text)
    return re.sub(rf"(fill|stroke): {INK}", r"\1: currentColor", text)


def _font(match: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]}" if size else "font-family: inherit"


def grid(axes: Any, axis: str) -> None:
    """Faint lines behind the data along 'x', 'y' or 'both'."""
    axes.grid(axis=axis, color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5, width=0.6)


def bars(axes: Any, values: list[list[float]], colours: list[str]) -> None:
    """A group of horizontal bars per row, one of each series."""
    thick = 0.78 / len(values)
    for i, (series, colour) in enumerate(zip(values, colours, strict=True)):
        where = [row + (i - (len(values) - 1) / 2) * thick for row in range(len(series))]
        axes.barh(where, [100 * value for value in series], height=thick * 0.9, color=colour)


def spread(wanted: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Positions at least `gap` apart within [low, high], near to and in the order of `wanted`: for labels."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _low(groups[-1], wanted, gap) - _high(groups[-2], wanted, gap) < gap:
            last = groups.pop()
            groups[-1] += last
    result = list(wanted)
    for group in groups:
        for rank, i in enumerate(group):
            result[i] = _low(group, wanted, gap) + rank * gap
    for rank, i in enumerate(order):
        result[i] = max(result[i], low + rank * gap)
    for rank, i in enumerate(reversed(order)):
        result[i] = min(result[i], high - rank * gap)
    return result


def _low(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    return sum(wanted[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    return _low(group, wanted, gap) + gap * (len(group) - 1)


def short(arm: Arm | str) -> str:
    """The name of an arm as a label in a picture."""
    return fmt.clean(arm if isinstance(arm, str) else arm.name, 28)
