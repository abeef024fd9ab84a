"""Write the map of docs/design.md from the folders' own first lines: ``python docs/generate_map.py``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.house import FOLDERS, PACKAGE, idea  # noqa: E402

PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- map: python docs/generate_map.py -->\n", "<!-- end of map -->\n"


def drawn() -> str:
    """The folders from the ground to the roof, with those below them."""
    lines = []
    for name in FOLDERS:
        lines.append(f"{name + '/':14} {idea(PACKAGE / name)}")
        below = sorted(path.parent for path in (PACKAGE / name).rglob("__init__.py") if path.parent != PACKAGE / name)
        for folder in below:
            depth = len(folder.relative_to(PACKAGE).parts) - 1
            lines.append(f"{'  ' * depth + folder.name + '/':14} {idea(folder)}")
    for name in ("launch", "__main__"):
        said = ast.get_docstring(ast.parse((PACKAGE / f"{name}.py").read_text())) or ""
        lines.append(f"{name + '.py':14} {said.splitlines()[0]}")
    return "```\n" + "\n".join(lines) + "\n```\n"


def main() -> None:
    """Write the map, or with ``--check`` say whether it is that of the folders."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    new = before + BEGIN + drawn() + END + rest.split(END)[1]
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new)
    elif new != text:
        sys.exit("The map of docs/design.md is not that of the folders: python docs/generate_map.py")


if __name__ == "__main__":
    main()
