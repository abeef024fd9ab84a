"""The shape of the house, counted: ``python -m tests.house``. tests/test_house.py holds the bounds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGE = SRC / "kd_lightning"

FOLDERS = (
    "losses",
    "core",
    "config",
    "files",
    "measures",
    "tasks",
    "data",
    "models",
    "comparison",
    "report",
    "cache",
    "training",
    "experiment",
    "tuning",
    "deploy",
    "jobs",
)
"""From the ground to the roof: a folder imports those before it only. ``__main__`` and ``launch`` stand on the roof."""
RAW = ("__main__", "launch", "config", "files.runs", "jobs", "experiment.settle", "tuning")
"""Where configuration may be raw; below ``experiment/settle.py`` it is typed."""
TASKS = {"classification", "token_classification", "causal_lm", "masked_lm", "language_model", "regression"}
ROLES = {"teacher", "student"}
TASKS |= {"embedding", "multilabel", "segmentation", "detection"}


@dataclass(frozen=True)
class Import:
    """One imported module of the package, and the name taken from it ('' for the module itself)."""

    line: int
    module: str
    name: str


@dataclass
class Module:
    """One file, read."""

    name: str
    path: Path
    package: str = field(init=False)

    def __post_init__(self) -> None:
        self.package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of its tree."""
        return list(ast.walk(ast.parse(self.text)))

    @property
    def folder(self) -> str:
        """The part of the package it is in: a folder, or its own name at the top."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Functions and methods."""
        return (n for n in self.nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def read(folder: Path, root: Path) -> dict[str, Module]:
    """Modules below a folder by their dotted name from ``root``."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.with_suffix("").relative_to(root).parts).removesuffix(".__init__")
        found[name] = Module(name, path)
    return found


class House:
    """The package and its tests."""

    def __init__(self) -> None:
        self.modules = read(PACKAGE, SRC)
        self.tests = read(ROOT / "tests", ROOT)

    def imports(self, module: Module) -> Iterator[Import]:
        """What a file imports of the package, lazily and for types too."""
        for node in module.nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kd_lightning":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield Import(node.lineno, *((whole, "") if whole in self.modules else (node.module, alias.name)))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "kd_lightning":
                        yield Import(node.lineno, alias.name, "")

    def raw_parameters(self) -> dict[str, int]:
        """File -> parameters of type DictConfig."""
        counts: dict[str, int] = {}
        for module in self.modules.values():
            for function in module.functions:
                every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
                notes = [ast.unparse(one.annotation) for one in every if one.annotation is not None]
                raw = sum("DictConfig" in note for note in notes)
                if raw:
                    name = module.name.removeprefix("kd_lightning.")
                    counts[name] = counts.get(name, 0) + raw
        return counts

    def circles(self) -> list[list[str]]:
        """Modules that import each other, directly or through others (strongly connected components)."""
        graph = {
            name: {i.module for i in self.imports(module) if i.module in self.modules and i.module != name}
            for name, module in self.modules.items()
        }
        reach = {name: _reachable(graph, name) for name in graph}
        found = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in graph if a in reach[a]}
        return [list(circle) for circle in sorted(found)]

    def upward(self) -> list[str]:
        """Imports that do not point to the ground."""
        level = {name: i for i, name in enumerate(("version", *FOLDERS))}
        wrong = []
        for module in self.modules.values():
            for one in self.imports(module):
                own, other = module.folder, self.modules[one.module].folder if one.module in self.modules else "?"
                if own == other or own not in level or (other and level.get(other, len(level)) < level[own]):
                    continue
                wrong.append(f"{module.name}:{one.line} imports {one.module}")
        return wrong

    def private(self) -> list[str]:
        """Private names and files that are imported from another folder, by the package or by its tests."""
        wrong = []
        for module in (*self.modules.values(), *self.tests.values()):
            for one in self.imports(module):
                package = one.module if one.module not in self.modules else self.modules[one.module].package
                hidden = any(part.startswith("_") and not part.endswith("__") for part in one.module.split("."))
                hidden |= one.name.startswith("_") and not one.name.endswith("__")
                if hidden and package != module.package:
                    wrong.append(f"{module.name}:{one.line} {one.module} {one.name}".rstrip())
        return wrong

    def long_files(self, most: int = 300) -> list[str]:
        """Files of more lines."""
        sizes = {name: module.text.count("\n") for name, module in self.modules.items()}
        return [f"{name} {size}" for name, size in sizes.items() if size > most]

    def long_functions(self, most: int = 60) -> list[str]:
        """Functions of more lines, their docstring left out."""
        return [
            f"{module.name}:{function.name} {size}"
            for module in self.modules.values()
            for function in module.functions
            if (size := _lines(function)) > most
        ]

    def task_switches(self) -> list[str]:
        """Comparisons with a task's name outside the rooms of tasks."""
        return self._comparisons(TASKS, ("kd_lightning.tasks", "kd_lightning.data.text"))

    def role_switches(self) -> list[str]:
        """Comparisons with a role's name outside the room of roles."""
        return self._comparisons(ROLES, ("kd_lightning.config.roles",))

    def _comparisons(self, names: set[str], rooms: tuple[str, ...]) -> list[str]:
        found = []
        for module in self.modules.values():
            if module.name.startswith(rooms):
                continue
            for node in module.nodes:
                if isinstance(node, ast.Compare):
                    said = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                    found += [f"{module.name}:{node.lineno}"] if said & names else []
        return found


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    size = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        size -= (first.end_lineno or 0) - first.lineno + 1
    return size


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead.extend(graph[name])
    return seen


def idea(folder: Path) -> str:
    """What a folder is for, in the first line of its ``__init__``."""
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    return said.split("\n")[0]


def main() -> None:
    """Print the counts and what they count."""
    house = House()
    raw = house.raw_parameters()
    print(f"DictConfig parameters: {sum(raw.values())} in {len(raw)} files")
    outside = {name: count for name, count in raw.items() if not any(f"{name}.".startswith(f"{r}.") for r in RAW)}
    for what, found in (
        ("DictConfig where configuration is typed", [f"{name} {count}" for name, count in outside.items()]),
        ("circles of imports", [" <-> ".join(circle) for circle in house.circles()]),
        ("imports that point upward", house.upward()),
        ("private names or files imported across folders", house.private()),
        ("files over 300 lines", house.long_files()),
        ("functions over 60 lines", house.long_functions()),
        ("comparisons with a task's name outside its rooms", house.task_switches()),
        ("comparisons with a role's name outside its room", house.role_switches()),
    ):
        print(f"{what}: {len(found)}")
        if "-v" in sys.argv[1:]:
            print("".join(f"  {one}\n" for one in found), end="")


if __name__ == "__main__":
    main()
