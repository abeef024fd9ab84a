"""References: how a term names where an argument of its loss comes from.

Grammar: ``scope.name[index]:in!flag``

    student.logits            a signal of a role (what its call returns)
    student.embedding         an alias of a tap, from the anatomy of the net or from ``taps`` of the role
    teacher.stages[-1]        one of an alias that stands for several taps
    student.layer2.0.conv1    any submodule by its dotted path: its output; with ``:in`` its first input
    teacher.head!module       the submodule itself
    teacher.logits!detach     without gradient
    batch.target              a key of the batch
    run.progress  data.num_samples    facts about the training and the data
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(
    r"^(?P<scope>\w+)\.(?P<name>[\w.]+(?::in)?)(?:\[(?P<index>-?\d+)\])?(?:!(?P<flag>detach|module))?$"
)


@dataclass(frozen=True)
class Reference:
    """One parsed reference.

    Attributes:
        scope: A role's name, ``batch``, ``run`` or ``data``.
        name: Signal, alias or dotted module path, with ``:in`` for a module's input.
        index: Which one of several, or None.
        flag: ``detach``, ``module`` or None.
    """

    scope: str
    name: str
    index: int | None = None
    flag: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference.

        Raises:
            ValueError: Where the text is not of the grammar above.
        """
        match = _PATTERN.match(text)
        if match is None:
            raise ValueError(
                f"'{text}' is not a reference. Write <role>.<signal or module path>, batch.<key>, run.progress or"
                " data.num_samples, for example student.logits, teacher.stages[-1], student.layer3.0.conv1:in."
            )
        index = match["index"]
        return cls(match["scope"], match["name"], None if index is None else int(index), match["flag"])

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        flag = "" if self.flag is None else f"!{self.flag}"
        return f"{self.scope}.{self.name}{index}{flag}"
