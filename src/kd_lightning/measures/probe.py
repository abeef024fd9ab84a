"""What is measured of a net itself, beyond its answers on the test split: a file of this folder with a ``Probe``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from kd_lightning import measures
from kd_lightning.files.defined import defined_in
from kd_lightning.measures.score import Measure

Batch = dict[str, Any]


class Subject(Protocol):
    """A net of a comparison, and the test samples that it is measured on.

    Attributes:
        net: In eval mode, on its device.
    """

    net: nn.Module

    def batches(self, most: int) -> Iterator[Batch]:
        """At most so many test samples that have a target, evenly spread, as the net takes them; and ``index``."""
        ...

    def pictures(self, most: int) -> Iterator[Batch]:
        """The same of data of pictures, with ``image`` (B, C, H, W) in [0, 1], not normalised."""
        ...

    def answer(self, batch: Batch) -> Tensor:
        """What the net says, a row a sample."""
        ...

    def normalise(self, images: Tensor) -> Tensor:
        """Pictures in [0, 1] as the net takes them."""
        ...


@dataclass(frozen=True)
class Probe:
    """A measure of a net.

    Attributes:
        key: Its name in ``probes.json``, and the switch under ``compare``: ``compare.<key>=false`` leaves it out.
        what: What is being measured, in words that follow 'Measuring'.
        measure: Measures; gives JSON values.
        numbers: Of what was measured, the numbers that stand among the metrics of an arm.
        columns: Those of them that tables show.
        takes: Kinds of samples that it can measure on: ``images``, ``features``, ``text``.
        of_classes: Whether it needs answers that are classes.
        settings: What decides the values beside net and samples, as JSON values: others are measured anew.
    """

    key: str
    what: str
    measure: Callable[[Subject], Any]
    numbers: Callable[[Any], dict[str, float]] = lambda values: {}
    columns: tuple[Measure, ...] = ()
    takes: tuple[str, ...] = ("images", "features", "text")
    of_classes: bool = False
    settings: tuple[Any, ...] = ()

    def fits(self, kind: str, classes: bool) -> bool:
        """Whether it can measure on samples of a kind, and answers that are classes or not."""
        return kind in self.takes and (classes or not self.of_classes)


@cache
def known_probes() -> dict[str, Probe]:
    """Every probe of this folder by its key, in the order of the files."""
    return {one.key: one for _, one in defined_in(measures) if isinstance(one, Probe)}
