"""Measuring: contenders take turns in one process, medians of the rounds, tables in Markdown."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

Step = Callable[[], object]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
now = CLOCKS[os.environ.get("KD_BENCH_CLOCK", "wall")]
"""Wall-clock seconds; KD_BENCH_CLOCK=cpu takes CPU seconds of this process, for a machine that others use too."""


@dataclass
class Times:
    """Seconds a step of every contender, one number a round."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Another round."""
        self.rounds.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        """Median seconds a step."""
        return statistics.median(self.rounds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times faster: the median over rounds of the ratio within a round, so that drift cancels."""
        return statistics.median(a / b for a, b in zip(self.rounds[slow], self.rounds[fast], strict=True))

    def difference(self, slow: str, fast: str) -> float:
        """Seconds a step between the two, median over rounds of the difference within a round."""
        return statistics.median(a - b for a, b in zip(self.rounds[slow], self.rounds[fast], strict=True))


def timed(step: Step, steps: int) -> float:
    """Seconds a step, over several."""
    synchronise()
    started = now()
    for _ in range(steps):
        step()
    synchronise()
    return (now() - started) / steps


def alternate(contenders: Mapping[str, Step], rounds: int = 7, steps: int = 1, warmup: int = 2) -> Times:
    """Let every contender run its steps in every round."""
    for step in contenders.values():
        timed(step, warmup)
    times = Times()
    for _ in range(rounds):
        for name, step in contenders.items():
            times.add(name, timed(step, steps))
    return times


def synchronise() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """What this was measured on, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        features = [f for f in ("avx512_bf16", "amx_bf16") if f in fields.get("flags", "")]
        name = " ".join([fields.get("model name", name), f"family {fields.get('cpu family', '?')}", *features])
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    load = f"load {os.getloadavg()[0]:.1f} at start" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}, torch {torch.__version__}, {load}"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """Prints a Markdown table, and gives it back."""
    lines = [f"### {title}", ""]
    if note:
        lines += [note, ""]
    lines.append("| " + " | ".join(head) + " |")
    lines.append("|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|")
    lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    return text


def write(page: Path, name: str, text: str) -> None:
    """Replace what lies between the marks ``<!-- name -->`` and ``<!-- /name -->`` of a page.

    Raises:
        ValueError: The page has no such marks.
    """
    content, start, end = page.read_text(), f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in content or end not in content:
        raise ValueError(f"{page} has no marks {start} and {end}.")
    before, _, rest = content.partition(start)
    page.write_text(f"{before}{start}\n{text.strip()}\n{end}{rest.partition(end)[2]}")


def _text(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
