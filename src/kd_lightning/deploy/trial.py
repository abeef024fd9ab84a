"""A trial of the export with a student that has learnt nothing: what cannot be exported is found at the start."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kd_lightning.config.schema import Config
from kd_lightning.config.schema_jobs import Export
from kd_lightning.core.ranks import is_main_process
from kd_lightning.core.watch import watching
from kd_lightning.data.base import SplitDataModule
from kd_lightning.deploy.export import calibration, deployable, kind_of
from kd_lightning.deploy.formats.registry import FORMATS, known_format
from kd_lightning.deploy.inputs import Inputs, part, tensors_of
from kd_lightning.files.packages import missing
from kd_lightning.measures.format import rough_size
from kd_lightning.training.nets import student_net

log = logging.getLogger("kd_lightning")

CHECKS = ("parallel", "first", "off")
# Sizes of a batch that a file must take: one sample, and a number that no example had.
SIZES = (1, 7)
SAMPLES = 16
# A copy of a net of so many bytes is not made by the way.
LARGE = 1e9


def check_export(export: Export, net: nn.Module, kind: str) -> None:
    """Refuse formats that there are not, that there cannot be of this net, or whose packages are not installed.

    Args:
        export: As it is set.
        net: The student as it would be exported, trained or not.
        kind: What it takes: ``image`` or ``text``.

    Raises:
        ValueError: Names the format and what to set.
    """
    for name in export.formats:
        form = known_format(name, f"export.formats={export.formats}")
        if absent := missing(form.packages):
            raise ValueError(
                f"export.formats={export.formats}: {name} needs {', '.join(absent)}, which is not installed here."
            )
        if refusal := form.refusal(net, kind):
            raise ValueError(refusal)


@contextmanager
def trial_export(settings: Config, data: SplitDataModule) -> Iterator[None]:
    """Try every format on the student as it is built: ``export.check`` says whether before or beside what is inside.

    Args:
        settings: With the student's method.
        data: Prepared data.

    Raises:
        ValueError: A format that does not go; inside, after the batch that is being trained.
    """
    export = settings.export
    if not is_main_process():
        yield
        return
    check = "off" if export.check == "False" else export.check  # YAML reads a bare `off` as false
    if check not in CHECKS:
        raise ValueError(f"export.check={export.check}: choose {', '.join(CHECKS)}.")
    call = instantiate(settings.student.call)
    examples = calibration(data, call, SAMPLES)
    net = deployable(student_net(settings).eval(), call, data)
    check_export(export, net, kind_of(examples))
    if not export.formats or check == "off":
        yield
        return
    trial, names = Trial(net, examples, list(export.formats), export.tolerance), ", ".join(export.formats)
    with tempfile.TemporaryDirectory(prefix="kd_lightning-") as folder:
        given = Path(folder) / "trial.pkl"
        if check == "parallel" and (size := _size(net)) > LARGE:
            log.info(f"export: not tried beside the training, the student has {rough_size(size)}; see export.check.")
            yield
        elif check == "parallel" and _handed(trial, given):
            with beside(given) as asked, watching(asked):
                yield
        else:
            log.info(f"export: trying {names} on the untrained student ...")
            refuse(attempt(trial))
            yield


def _size(net: nn.Module) -> int:
    """Bytes of its weights."""
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())


@dataclass
class Trial:
    """What is tried: an untrained student, some of its inputs, names of formats, and how exact answers must be."""

    net: nn.Module
    examples: Inputs
    formats: list[str]
    tolerance: float


def attempt(trial: Trial) -> list[str]:
    """Write and run every format; returns what is wrong, a sentence each."""
    found = []
    with tempfile.TemporaryDirectory(prefix="kd_lightning-") as folder:
        for name in trial.formats:
            form = FORMATS[name]
            try:
                form.make(trial.net, trial.examples, Path(folder) / form.file)
                run = form.runner(Path(folder) / form.file)
                gaps = [_gap(run, trial.net, part(trial.examples, 0, size)) for size in SIZES]
            except ValueError as error:
                found.append(str(error))
                continue
            if form.exact and not max(gaps) <= trial.tolerance:
                found.append(
                    f"The {form.title} file of the student differs from PyTorch by {max(gaps):.2e} of the largest"
                    f" answer (export.tolerance = {trial.tolerance:.0e})."
                )
    return found


@torch.no_grad()
def _gap(run: Any, net: nn.Module, inputs: Inputs) -> float:
    """The largest difference from PyTorch, as a share of the largest answer; a batch of another size raises."""
    ours: Tensor = net(*tensors_of(inputs))
    theirs: Tensor = run(inputs)
    if theirs.shape != ours.shape:
        raise ValueError(f"of {len(ours)} samples it gives {tuple(theirs.shape)}, PyTorch {tuple(ours.shape)}")
    return float((ours - theirs).abs().max()) / max(float(ours.abs().max()), 1e-12)


def refuse(found: list[str]) -> None:
    """Stop the command where something was found.

    Raises:
        ValueError: With all of it.
    """
    if found:
        raise ValueError(
            "\n".join(found) + "\nThis was tried on the student before its training (export.check): leave the format"
            " out of export.formats, take another student, or set export.check=off."
        )


@dataclass
class Beside:
    """A trial in a process of its own, of low priority."""

    process: BaseProcess
    answer: Path
    done: bool = field(default=False)

    def __call__(self) -> None:
        """Look whether it has ended; raises what it has found."""
        if self.done or self.process.is_alive():
            return
        self.done = True
        try:
            found = json.loads(self.answer.read_text())
        except (OSError, ValueError):
            code = self.process.exitcode
            log.warning(f"export: its trial ended without an answer (exit code {code}); the end of the run will tell.")
            return
        refuse(found)


def _handed(trial: Trial, given: Path) -> bool:
    """Whether the trial could be written for another process; some nets cannot be pickled."""
    try:
        with given.open("wb") as file:
            pickle.dump(trial, file)
    except Exception:  # whatever a net's own pickling raises
        return False
    return True


@contextmanager
def beside(given: Path) -> Iterator[Beside]:
    """A trial, as it was written, begun; ended with the block."""
    answer = given.with_name("found.json")
    process = multiprocessing.get_context("spawn").Process(target=_process, args=(given, answer), daemon=True)
    process.start()
    try:
        yield Beside(process, answer)
    finally:
        process.terminate()
        process.join()


def _process(given: Path, answer: Path) -> None:
    """The other process: it leaves the cores to the training, and the GPUs alone."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.nice(10)
    torch.set_num_threads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # exporters tell of every pass they make, in the midst of the training's lines
        os.dup2(nowhere, stream)
    with given.open("rb") as file:
        trial = pickle.load(file)
    partial = answer.with_suffix(".partial")
    partial.write_text(json.dumps(attempt(trial)))
    partial.replace(answer)
