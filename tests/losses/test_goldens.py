"""Every golden case: our losses against values recorded from the authors' code."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.losses.goldens import FOLDER, MAPPINGS, check, load

for path in Path(__file__).parent.glob("golden_*.py"):
    importlib.import_module(f"tests.losses.{path.stem}")

FILES = sorted(FOLDER.glob("*.pt"))
CASES = [pytest.param(f.stem, case, id=f"{f.stem}-{case['name']}") for f in FILES for case in load(f)]


def test_goldens_are_there():
    assert len(FILES) > 0, f"no golden files in {FOLDER}"


@pytest.mark.parametrize("method", [f.stem for f in FILES])
def test_every_file_has_a_mapping(method: str):
    assert method in MAPPINGS, f"{method}.pt has no mapping in tests/losses/golden_*.py"


@pytest.mark.parametrize(("method", "case"), CASES)
def test_golden(method: str, case: dict[str, Any]):
    check(method, case)
