"""What arms are judged in, and what else a task shows of them: names, units, decimals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kd_lightning.measures import format as fmt


@dataclass(frozen=True)
class Score:
    """The measure that arms are tested in.

    Attributes:
        key: Its name among the metrics of an arm.
        name: What people call it, at the start of a line.
        unit: Of a value, in tables and on axes.
        gap_unit: Of a difference.
        scale: What a value is multiplied by to be in that unit.
        digits: Decimals of a value and of a difference.
        higher: Whether a larger value is the better one.
    """

    key: str
    name: str
    unit: str
    gap_unit: str
    scale: float = 100.0
    digits: int = 1
    higher: bool = True

    @property
    def sign(self) -> int:
        """1 where larger is better, else -1."""
        return 1 if self.higher else -1

    @property
    def label(self) -> str:
        """Name and unit, for axes."""
        return f"{in_a_line(self.name)} ({self.unit})" if self.unit else in_a_line(self.name)

    def value(self, value: float) -> str:
        """'97.2 %', '1.234 nats'."""
        return f"{self.scale * value:.{self.digits}f} {self.unit}".rstrip()

    def gap(self, value: float | None, digits: int | None = None) -> str:
        """A difference with its sign, without the unit: '+2.0'."""
        if value is None or math.isnan(value):
            return fmt.DASH
        return fmt.points(value * self.scale / 100, self.digits if digits is None else digits)

    def size(self, value: float, digits: int | None = None) -> str:
        """The size of a difference, without sign and unit."""
        return f"{self.scale * abs(value):.{self.digits if digits is None else digits}f}"

    def better(self, difference: float) -> bool:
        """Whether a difference is an improvement."""
        return self.sign * difference > 0


@dataclass(frozen=True)
class Measure:
    """One of the numbers that tables show of an arm.

    Attributes:
        key: Its name among the metrics of an arm.
        name: What people call it.
        unit: Of its values, empty where they have none.
        scale: What a value is multiplied by to be in that unit.
        digits: Decimals.
        short: Whether it is also shown where there is little room.
        group: Section of the report's page: ``result``, ``calibration`` or ``similarity``.
    """

    key: str
    name: str
    unit: str = "%"
    scale: float = 100.0
    digits: int = 2
    short: bool = False
    group: str = "result"

    @property
    def in_a_line(self) -> str:
        """Its name within a sentence."""
        return in_a_line(self.name)


def in_a_line(name: str) -> str:
    """A name that stands at the start of a line, within a sentence: 'Top-1' is 'top-1', 'NLL' stays."""
    return name if name.isupper() else name[0].lower() + name[1:]
