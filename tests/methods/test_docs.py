"""docs/methods.md is what the docstrings and YAML say."""

import importlib.util
from pathlib import Path

from kd_lightning.jobs.methods import method_infos

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate_methods", DOCS / "generate_methods.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.TARGET.read_text() == generator.page(), "run: python docs/generate_methods.py"


def test_every_method_has_its_section():
    headings = [line for line in (DOCS / "methods.md").read_text().splitlines() if line.startswith("### ")]
    assert headings == [f"### {info['name']}" for info in method_infos()]
