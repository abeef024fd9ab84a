"""What the product costs, each figure a ratio of contenders that take turns in one process.

    make bench          or          python -m benchmarks.run [--only pairs overhead ...] [--tiny] [--threads 1]

KD_BENCH_CLOCK=cpu measures CPU seconds instead of wall-clock time, for a machine that is also used by others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import reads, sections
from benchmarks.clock import machine, write
from benchmarks.prepare import streaming
from benchmarks.sections import Settings

SECTIONS: dict[str, Callable[[Settings], str]] = {
    "overhead": sections.overhead,
    "pairs": sections.pairs,
    "data": sections.data_path,
    "streaming": streaming,
    "precision": sections.precision,
    "teacher": sections.frozen_teacher,
    "compile": sections.compiled,
    "samples": sections.samples,
    "classes": sections.classes,
    "students": sections.students,
    "reads": reads.reads,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--tiny", action="store_true", help="to the end in a minute; the numbers mean nothing")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0: its own choice")
    parser.add_argument("--write", type=Path, help="put the tables into this page, between its marks")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    measured_on = f"Machine: {machine()}, {os.environ.get('KD_BENCH_CLOCK', 'wall')} clock."
    print(f"{measured_on}\n")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(tiny=args.tiny, folder=Path(folder))
        tables = {name: SECTIONS[name](settings) for name in args.only}
    if args.write is not None:
        for name, text in tables.items():
            write(args.write, name, f"{text}\n{measured_on}")


if __name__ == "__main__":
    main()
