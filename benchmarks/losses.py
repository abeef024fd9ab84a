"""What every vision loss costs by itself, as a share of the student's step.

    python -m benchmarks.losses [--tiny] [--threads 1] [--write docs/losses_benchmark.md]

KD_BENCH_CLOCK=cpu measures CPU seconds instead of wall-clock time, for a machine that is also used by others.
"""

from __future__ import annotations

import argparse
import datetime
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.clock import Step, alternate, machine, table
from benchmarks.memory import peak_bytes
from benchmarks.product import composed
from kd_lightning.config.values import settings_of
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.schedules import Progress
from kd_lightning.core.terms import Term
from kd_lightning.experiment.settle import build_data
from kd_lightning.jobs.methods import load_method, method_infos
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import build_net, student_net
from kd_lightning.training.training import Training

STUDENT, TEACHER = "student's step", "teacher's forward"
# Terms that methods have beside their own.
COMMON = ("ce", "kd")
# Their targets are not classes.
OTHER_TARGETS = ("multilabel_kd", "regression_kd", "smooth_l1")

# Teacher, student, batch, classes.
SIZES = ("resnet32x4", "resnet8x4", 64, 100)
TINY = ("resnet8x4", "resnet8", 8, 4)

TITLE = "What a loss costs"
NOTE = """Forward and backward of the loss alone, its own projectors and memory with it, on what {student} (learning)
and {teacher} (frozen) give for {batch} images of 3x32x32 with {classes} classes; {samples} samples in the memory of
CRD. Numbers as published (`method=<name>`).

- **time**: median over {rounds} round(s), in each of which all take one turn, of the share of the student's step in the
  same round. The student's step is forward, cross-entropy, backward and SGD.
- **peak**: largest sum of the sizes of all tensors that are alive at once and were made in it (a dispatch mode counts
  every storage from its creation to its release), beyond what goes in. Scratch memory inside a kernel is not seen.
- **held**: parameters and buffers of the loss.

The teacher's forward pass comes on top for every method that has one, and can be stored (`teacher.cache`). The methods
with several views (cs_kd, mlkd, sskd) also pass 2, 2 and 4 times as many images through the nets; SimKD's projector
is a part of its student. Both are not in these numbers.
"""


@dataclass
class Case:
    """A loss and what it is given; ``grads`` are the arguments that the student learns through."""

    term: Term
    arguments: dict[str, Any]
    grads: frozenset[str]

    def step(self) -> Tensor:
        """Forward and backward of the loss alone."""
        arguments = {name: self._leaf(name, value) for name, value in self.arguments.items()}
        loss: Tensor = self.term.loss(**arguments)
        if loss.requires_grad:
            loss.backward()
        for module in (self.term, *self._modules()):
            module.zero_grad(set_to_none=True)
        return loss.detach()

    def held_bytes(self) -> int:
        """Size of its parameters and buffers."""
        return sum(t.nbytes for t in (*self.term.parameters(), *self.term.buffers()))

    def _leaf(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._leaf(name, item) for item in value]
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().requires_grad_(name in self.grads)
        return value

    def _modules(self) -> list[nn.Module]:
        """Modules among the arguments: FCFD runs parts of the nets, CAT-KD reads their classifiers."""
        values = [v for value in self.arguments.values() for v in (value if isinstance(value, list) else [value])]
        return [value for value in values if isinstance(value, nn.Module)]


def own_terms() -> dict[str, DictConfig]:
    """Method -> its own term; where two methods have the same loss with the same numbers, the first."""
    found: dict[str, DictConfig] = {}
    for info in method_infos():
        if info["kind"] in ("token", "transformer") or info["name"] in OTHER_TARGETS:
            continue
        terms = load_method(info["name"]).terms
        own = next((name for name in terms if name not in COMMON), "kd" if "kd" in terms else "ce")
        if all(terms[own].loss != other.loss for other in found.values()):
            found[info["name"]] = terms[own]
    return found


def cases_of(cfg: DictConfig, data: Any) -> dict[str, Case]:
    """Every loss with the arguments of one real batch: those that need no other batch or student together."""
    together: dict[str, DictConfig] = {}
    apart: dict[str, dict[str, DictConfig]] = {}
    for method, term in own_terms().items():
        loaded = load_method(method)
        if "rollout" in loaded or "student_wrapper" in loaded:
            apart[method] = {method: term}
        else:
            together[method] = term
    cases: dict[str, Case] = {}
    for method, terms in {"kd": together, **apart}.items():
        cfg.method = composed([f"method={method}"]).method
        cfg.method.terms = terms
        cfg.method.stages = []
        settings = settings_of(cfg)
        teacher = build_net(settings.teacher, 0).eval()
        training = Training(settings, data, {"teacher": teacher})
        cases |= _capture(build_distiller(training, student_net(settings, teacher))[0], data)
    return cases


def _capture(module: Distiller, data: Any) -> dict[str, Case]:
    """One forward pass of the roles; every term's arguments."""
    module.train()
    batch = module.prepare_batch(data.ready(next(iter(data.loader("train", train=True)))))
    signals = module.roles(batch, list(module.roles.by_name))
    cases = {}
    for term in module.objective:
        arguments = term.arguments(lambda r: module._resolve(r, signals, batch, Progress(0.5, 1)))
        sources = {name: source if isinstance(source, list) else [source] for name, source in term.sources.items()}
        grads = frozenset(name for name, refs in sources.items() if any(r.scope == "student" for r in refs))
        cases[term.name] = Case(term, arguments, grads)
    return cases


def references(cfg: DictConfig, data: Any) -> dict[str, Step]:
    """The student's step and the teacher's forward pass."""
    batch = data.ready(next(iter(data.loader("train", train=True))))
    settings = settings_of(cfg)
    student, teacher = build_net(settings.student, 0).train(), build_net(settings.teacher, 0).eval()
    optimizer = instantiate(settings.optimizer)(student.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(student(batch["image"]), batch["target"]).backward()
        optimizer.step()

    @torch.no_grad()
    def look() -> None:
        teacher(batch["image"])

    return {STUDENT: step, TEACHER: look}


def measure(cfg: DictConfig, rounds: int, samples: int) -> str:
    """The page."""
    data = build_data(cfg)
    data.num_samples = samples  # the memory of CRD is as large as for the real data set
    cases = cases_of(cfg, data)
    contenders: dict[str, Callable[[], object]] = {**references(cfg, data), **{n: c.step for n, c in cases.items()}}
    peaks = {}
    for name, step in contenders.items():
        step()  # what is made once is not the step's
        peaks[name] = peak_bytes(step)
    times = alternate(contenders, rounds=rounds, warmup=1)
    megabyte = 2**20

    def row(name: str) -> list[str]:
        held = f"{cases[name].held_bytes() / megabyte:.2f}" if name in cases else ""
        share = f"{100 * times.ratio(name, STUDENT):.2f} %"
        milliseconds = f"{1000 * times.median(name):.2f}"
        peak = f"{peaks[name] / megabyte:.2f}"
        return [name, share, milliseconds, peak, f"{100 * peaks[name] / peaks[STUDENT]:.1f} %", held]

    order = sorted(cases, key=lambda name: -times.ratio(name, STUDENT))
    head = ["loss", "time, share of the student's step", "ms", "peak MB", "share of the step's peak", "held MB"]
    note = NOTE.format(
        student=cfg.student.name,
        teacher=cfg.teacher.name,
        batch=cfg.data.batch_size,
        classes=cfg.data.num_classes,
        samples=f"{samples:,}",
        rounds=rounds,
    )
    clock = os.environ.get("KD_BENCH_CLOCK", "wall")
    where = f"Machine: {machine()}, {clock} clock; {datetime.date.today()}. `python -m benchmarks.losses`"
    rows = [row(name) for name in (STUDENT, TEACHER, *order)]
    return table(TITLE, head, rows, f"{where}\n\n{note.rstrip()}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="to the end in half a minute; the numbers mean nothing")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0: its own choice")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path, help="also write the page here")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.tiny:
        overrides = ["model@teacher=resnet8x4", "model@student=resnet8", "data.batch_size=8", "data.num_classes=4"]
    else:
        overrides = [
            "model@teacher=resnet32x4",
            "model@student=resnet8x4",
            "data.batch_size=64",
            "data.num_classes=100",
        ]
    samples = ["data.source.samples=40" if args.tiny else "data.source.samples=400", "data.augment=[]"]
    cfg = composed(["data=synthetic", *samples, *overrides, "teacher.cache=off"])
    OmegaConf.resolve(cfg)
    page = measure(cfg, 1 if args.tiny else args.rounds, 200 if args.tiny else 50_000)
    if args.write:
        args.write.write_text(page.replace("### ", "# ", 1))


if __name__ == "__main__":
    main()
