"""What a file must say to be an export format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kd_lightning.deploy.inputs import Inputs, LogitsNet, TextNet, tensors_of

log = logging.getLogger("kd_lightning")

Runner = Callable[[Inputs], Tensor]
"""What the network takes to its answer, such as logits (B, classes)."""


def nothing_against(net: nn.Module) -> str | None:
    """What a format says that takes every net."""
    return None


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: What ``export.formats``, ``predict.backend`` and ``serve.backend`` call it.
        file: Name of the file (or folder) in the export folder.
        title: What people call it.
        write: Writes a net, given as many example inputs as ``export.calibration`` says, to a path.
        load: Gives what runs the file.
        use: Python that runs it, from the inputs to ``logits`` (numpy arrays), for the model card; may hold
            ``{file}``, ``{inputs}`` (by name) and ``{tensors}`` (a list), other braces doubled.
        exact: Whether its answers must be PyTorch's; others are judged by the accuracy they keep.
        takes: What it is for: ``image``, ``text``, or both.
        with_tokenizer: Whether it is a folder that the tokenizer of a text student lies in too.
        packages: What is installed to write and run it; their versions go into the record.
        runs_code: Whether reading a file can run what is in it: then it must be of this machine, or trusted.
        place: Where it stands in lists; those of one place by name.
        against: Why there can be no such file of a net or on this machine, seen without writing one; None where it may
            be.
    """

    name: str
    file: str
    title: str
    write: Callable[[nn.Module, Inputs, Path], None]
    load: Callable[[Path], Runner]
    use: str
    exact: bool = True
    takes: tuple[str, ...] = ("image", "text")
    with_tokenizer: bool = False
    packages: tuple[str, ...] = ()
    place: int = 100
    runs_code: bool = False
    against: Callable[[nn.Module], str | None] = nothing_against

    def refusal(self, net: nn.Module, kind: str) -> str | None:
        """Why there is no such file of this net, known without its weights; None where it may be.

        Args:
            net: Trained or not, as it would be exported (``deploy.export.deployable``).
            kind: What it takes: ``image`` or ``text``.
        """
        reason = f"it is for {' and '.join(self.takes)}s" if kind not in self.takes else self.against(net)
        if reason is None:
            return None
        return f"There is no {self.title} file of this student, {title_of(net)}: {reason}. {self._way_out()}"

    def make(self, net: nn.Module, examples: Inputs, path: Path) -> None:
        """Write a net, as ``write``.

        Raises:
            ValueError: It cannot be written; says what stands against it.
        """
        with self._in_words(f"cannot be written of a {title_of(net)}"):
            self.write(net, examples, path)

    def runner(self, path: Path) -> Runner:
        """What runs a file, as ``load``; where it fails it says so with ``ValueError``."""
        with self._in_words("cannot be read again"):
            run = self.load(path)

        def in_words(inputs: Inputs) -> Tensor:
            shapes = ", ".join(map(str, (tuple(tensor.shape) for tensor in tensors_of(inputs))))
            with self._in_words(f"does not take inputs of {shapes}"):
                return run(inputs)

        return in_words

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        """Whatever a net of the user's own makes a tracer, a converter or a runtime stumble over."""
        try:
            yield
        except (ValueError, ModuleNotFoundError, OSError):
            raise
        except Exception as error:
            log.debug(f"{self.title}: {what}", exc_info=True)
            raise ValueError(
                f"The {self.title} file of the student {what}. {in_short(error)} {self._way_out()}"
            ) from error

    def _way_out(self) -> str:
        return f"Leave {self.name} out of export.formats."


def title_of(net: nn.Module) -> str:
    """What people call a net: its class, without what it is wrapped in for export."""
    return type(net.net if isinstance(net, TextNet | LogitsNet) else net).__name__


def in_short(error: BaseException) -> str:
    """The innermost reason of an error in one line, with a full stop."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ": ".join([type(error).__name__, *lines[:1]])
    return (text if len(text) <= 300 else f"{text[:300]} ...").rstrip(".") + "."
