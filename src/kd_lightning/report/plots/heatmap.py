"""A matrix as inline SVG: colour says how much, the number in the cell how much exactly; colours come from the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 490  # units of the picture: as many pixels as half of the page
TONES = {"ink": "currentColor", "gain": "var(--gain, #00694d)", "loss": "var(--loss, #a63e00)", "blue": "var(--blue)"}
LETTER = 0.6  # width of a letter against its size
DEEPEST = 0.8  # opacity of the strongest cell: numbers stay legible
DEEP = 0.6  # from this opacity on the number takes the colour that the page has for it


@dataclass(frozen=True)
class Cell:
    """How strong its colour is, in [0, 1], in which tone (a key of `TONES`), and what stands in it."""

    strength: float
    tone: str
    text: str = ""


def heatmap(
    cells: Sequence[Sequence[Cell]],
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    label: str,
) -> str:
    """The picture; every string in it is escaped.

    Args:
        cells: row by row.
        rows: names of the rows, downwards.
        columns: names of the columns, across; turned where they are longer than a cell is wide.
        row_title: what the rows are.
        column_title: what the columns are.
        label: for readers who cannot see it.
    """
    size = 11.5 if len(columns) <= 16 else 9.0
    left = 24 + LETTER * size * max(map(len, rows)) + 4
    width = (WIDTH - left - 2) / len(columns)
    height = min(width, 44.0)
    turned = LETTER * size * max(map(len, columns)) > width - 2
    deep = LETTER * size * max(map(len, columns)) + 8 if turned else size + 8
    bottom = height * len(rows)
    parts = [_cell(cell, left + j * width, i * height, width, height, size) for i, row in enumerate(cells)
             for j, cell in enumerate(row)]  # fmt: skip
    parts += [_text(name, left - 5, (i + 0.5) * height + size * 0.36, size, "end") for i, name in enumerate(rows)]
    for j, name in enumerate(columns):
        x, y = left + (j + 0.5) * width, bottom + size + 4
        turn = f' transform="rotate(-90 {x + size * 0.36:.1f} {bottom + 6:.1f})"' if turned else ""
        place = (x + size * 0.36, bottom + 6, "end") if turned else (x, y, "middle")
        parts.append(_text(name, place[0], place[1], size, place[2], turn))
    total = bottom + deep + 20
    middle = f' transform="rotate(-90 11 {bottom / 2:.1f})"'
    parts.append(_text(row_title, 11, bottom / 2, 12, "middle", middle))
    parts.append(_text(column_title, left + (WIDTH - left) / 2, total - 5, 12, "middle"))
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {total:.0f}" fill="currentColor">'
    return head + "".join(parts) + "</svg>"


def _cell(cell: Cell, x: float, y: float, width: float, height: float, size: float) -> str:
    opacity = DEEPEST * min(max(cell.strength, 0.0), 1.0)
    if opacity < 0.005:
        shape = ""
    else:
        place = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{width - 1:.1f}" height="{height - 1:.1f}"'
        shape = f'<rect {place} style="fill: {TONES[cell.tone]}" fill-opacity="{opacity:.2f}"/>'
    if not cell.text:
        return shape
    colour = ' style="fill: var(--deep, #1c2127)"' if opacity > DEEP else ""
    small = min(size, 1.6 * width / max(len(cell.text), 1))
    return shape + _text(cell.text, x + width / 2, y + height / 2 + small * 0.36, small, "middle", colour)


def _text(text: str, x: float, y: float, size: float, anchor: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" text-anchor="{anchor}"'
    return f"<text {place}{more}>{escape(text)}</text>"
