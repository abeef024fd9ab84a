"""``python -m tests.recorded <old commit> [<new commit>]``: has a refactoring changed any bit of any result?

Runs the commands of ``recorded_conf/experiments.yaml`` with two versions of the code, on this machine and with this
interpreter, and compares all that they write and say, less ``recorded_conf/left_out.yaml``. Without a new commit it is
the working tree. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.recorded_conf.values import contents, differing, leaves, same

ROOT = Path(__file__).resolve().parents[1]
CONF = Path(__file__).with_name("recorded_conf")
LEFT_OUT = yaml.safe_load((CONF / "left_out.yaml").read_text())
NAME = re.compile(r"\bkd_lightning(\.\w+)+")
SHOWN = 20


# -- two versions ----------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One version of the code and the folder that its commands run in."""

    name: str
    tree: Path
    work: Path
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def python(self, *arguments: str, cwd: Path | None = None, stdin: str = "") -> tuple[int, str]:
        """Exit code and all output of an interpreter that imports this version."""
        path = os.pathsep.join((str(self.work.parent / "start"), str(self.tree / "src")))
        settings = {"PYTHONPATH": path, "RECORDED_TREE": str(self.tree), "OMP_NUM_THREADS": "1", "COLUMNS": "160",
                    "PYTHONUNBUFFERED": "1", "PYTHONPYCACHEPREFIX": str(self.work.parent / "pycache"),
                    "PYTHONDONTWRITEBYTECODE": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}  # fmt: skip
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd or self.work.parent, env={**os.environ, **settings}, input=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def answer(self, *arguments: str, stdin: str = "") -> str:
        """Output of what must not fail."""
        status, text = self.python(*arguments, stdin=stdin)
        if status:
            raise SystemExit(f"{self.name}: {text}")
        return text


@contextmanager
def checked_out(commit: str | None, folder: Path) -> Iterator[None]:
    """A worktree of a commit, or a copy of the working tree's files."""
    if commit is not None:
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        try:
            yield
        finally:
            _git("worktree", "remove", "--force", str(folder))
        return
    for name in _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def check_import(side: Side) -> None:
    """Refuse to run where another version than the side's own would be imported or configured."""
    where = "import json, kd_lightning, hydra_plugins as h; print(json.dumps([kd_lightning.__file__, *h.__path__]))"
    package, *plugins = json.loads(side.answer("-c", where).splitlines()[-1])
    plugins = [path for path in plugins if "site-packages" not in path]  # Hydra's own ones
    sources = yaml.safe_load(side.answer("-m", "kd_lightning", "--cfg", "hydra", "-p", "hydra.runtime.config_sources"))
    conf = [one["path"] for one in sources if one["provider"] == "main"]
    for path in (package, *plugins, *conf):
        if not Path(path).resolve().is_relative_to(side.tree):
            raise SystemExit(f"{side.name}: {path} is used, which does not lie in {side.tree}.")
    if not plugins or not conf:
        raise SystemExit(f"{side.name}: plugin or configuration not found.")
    print(f"{side.name}: {package}, {plugins[0]}, {conf[0]}")


def run_side(side: Side, experiments: dict[str, list[list[str]]], given: Path) -> None:
    """Run every command of a side; its console goes into a file beside its results."""
    for name, commands in experiments.items():
        folder, run, started = side.work / name, "", time.perf_counter()
        shutil.copytree(given, folder / "given")
        for number, command in enumerate(commands, 1):
            arguments = shlex.split(" ".join(command).replace("{run}", run))
            code, text = side.python("-m", "kd_lightning", *arguments, cwd=folder)
            (folder / f"console_{number}.txt").write_text(f"{text}\nexit code {code}\n")
            if code:
                side.failed.append(f"{name}: command {number} of {side.name} ended with {code}: {text[-1500:]}")
            run = run or next((str(p.parent.relative_to(folder)) for p in folder.glob("outputs/*/*/status.json")), "")
        side.seconds[name] = time.perf_counter() - started


# -- comparison ------------------------------------------------------------------------------------------------------


def normalised(text: str, side: Side, names: dict[str, str]) -> str:
    """A text without folders, times and sizes, with the first names of what was renamed."""
    for folder, label in ((side.work, "<work>"), (side.tree, "<tree>")):
        text = text.replace(str(folder), label)
    text = NAME.sub(lambda found: names.get(found[0], found[0]), text)
    for pattern, label in LEFT_OUT["texts"].items():
        text = re.sub(pattern, label, text)
    return text


def unlike(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of names that must not become alike when they are normalised."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SystemExit(f"Two of '{key}': nobody could say which is compared with which.")
        found[key] = value
    return found


def compare(name: str, sides: tuple[Side, Side], names: dict[str, str]) -> tuple[Counter[str], list[str]]:
    """Counts of what was compared in an experiment, and every difference."""
    counts = Counter[str]()
    found = [line for side in sides for line in side.failed if line.startswith(f"{name}:")]
    files = [
        unlike((normalised(str(p.relative_to(s.work / name)), s, names), p) for p in paths if p.is_file())
        for s in sides
        if (paths := sorted((s.work / name).rglob("*")))
    ]
    for file in sorted(files[0].keys() | files[1].keys()):
        if not all(file in one for one in files):
            found.append(f"{file}: only in {sides[file not in files[0]].name}")
            continue
        counts["files"] += 1
        if Path(file).suffix in LEFT_OUT["files"]:
            continue
        try:
            both = [contents(one[file]) for one in files]
        except Exception as error:
            found.append(f"{file}: cannot be read: {error}")
            continue
        if all(isinstance(one, str) for one in both):
            old, new = (
                [normalised(line, s, names) for line in one.splitlines()] for one, s in zip(both, sides, strict=True)
            )
            counts["lines"] += len(old)
            changed = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if line[:2] != "@@"][2:]
            found += [f"{file}: {line[:200]}" for line in changed]
        else:
            found += compare_values(file, both, sides, names, counts)
    return counts, found


def compare_values(
    file: str, both: list[Any], sides: tuple[Side, Side], names: dict[str, str], counts: Counter[str]
) -> list[str]:
    """Differences of two nested values, less what is excluded; adds to the counts."""
    old, new = (
        unlike(
            (normalised(k, s, names), normalised(v, s, names) if isinstance(v, str) else v) for k, v in leaves(value)
        )
        for value, s in zip(both, sides, strict=True)
    )
    found = []
    for place in dict.fromkeys([*old, *new]):
        whole = f"{file}:{place}"
        if any(re.search(pattern, whole) for pattern in LEFT_OUT["values"]):
            counts["left out"] += 1
        elif not (place in old and place in new):
            found.append(f"{whole}: only in {sides[place not in old].name}")
        else:
            a, b = old[place], new[place]
            kinds = {torch.Tensor: "tensors", float: "numbers", int: "numbers"}
            counts[next((kind for t, kind in kinds.items() if isinstance(a, t)), "other values")] += 1
            found += [] if same(a, b) else [f"{whole}: {differing(a, b)}"]
    return found


def first_names(sides: tuple[Side, Side]) -> dict[str, str]:
    """For every dotted name in the files of both sides the one that the first version had for it."""
    texts = (p for s in sides for p in s.work.rglob("*") if p.suffix in (".yaml", ".json", ".txt", ".html", ".md"))
    found = {match[0] for path in texts for match in NAME.finditer(path.read_text())}
    program = str(sides[1].work.parent / "start" / "first_names.py")
    names: dict[str, str] = json.loads(sides[1].answer(program, stdin=json.dumps(sorted(found))).splitlines()[-1])
    return names


def record(old: str, new: str | None, folder: Path, chosen: dict[str, list[list[str]]]) -> bool:
    """Run and compare; whether nothing differs."""
    # Names of equal length, so that lines break at the same places.
    sides = (Side("old", folder / "tree_old", folder / "old"), Side("new", folder / "tree_new", folder / "new"))
    with checked_out(old, sides[0].tree), checked_out(new, sides[1].tree):
        shutil.copytree(CONF / "start", folder / "start")
        for side in sides:
            side.work.mkdir()
            check_import(side)
        sides[0].answer(str(folder / "start" / "given.py"))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda side: run_side(side, chosen, folder / "given"), sides))
        names = first_names(sides)
    good = True
    for name in chosen:
        counts, found = compare(name, sides, names)
        amounts = ", ".join(
            f"{counts[key]:,} {key}" for key in ("files", "tensors", "numbers", "other values", "lines")
        )
        took = " and ".join(f"{side.seconds[name]:.0f} s" for side in sides)
        verdict = f"{len(found)} DIFFERENCES" if found else "the same"
        print(f"{name}: {verdict} ({amounts}; left out: {counts['left out']}; {took})")
        for line in found[:SHOWN]:
            print(f"  {line}")
        if len(found) > SHOWN:
            print(f"  ... and {len(found) - SHOWN} more")
        good = good and not found
    return good


def main() -> None:
    """The command line."""
    experiments = yaml.safe_load((CONF / "experiments.yaml").read_text())["experiments"]
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__.splitlines()[0])
    parser.add_argument("old", help="commit that was right")
    parser.add_argument("new", nargs="?", help="commit to check; the working tree where none is given")
    parser.add_argument("--only", nargs="+", choices=list(experiments), help="experiments, not all")
    parser.add_argument("--keep", type=Path, help="folder that is made, and in which all files stay")
    given, started = parser.parse_args(), time.perf_counter()
    chosen = {name: experiments[name] for name in given.only or experiments}
    if given.keep is not None:
        given.keep.mkdir(parents=True)
        good = record(given.old, given.new, given.keep.resolve(), chosen)
    else:
        with tempfile.TemporaryDirectory(prefix="recorded_") as folder:
            good = record(given.old, given.new, Path(folder).resolve(), chosen)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = f"{time.perf_counter() - started:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors"
    print(f"{'Nothing differs' if good else 'There are differences'} ({took}).")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
