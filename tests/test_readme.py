"""What the documents tell people to type and to write works."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands(text: str) -> list[list[str]]:
    """Arguments of every `python -m kd_lightning` line."""
    found = re.findall(r"python -m kd_lightning ([^`#\n]+)", text)
    return [shlex.split(line.replace("<time>", "1")) for line in found]


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("arguments", commands(README), ids=" ".join)
def test_commands_compose(arguments, cli, tmp_path):
    for group, name in (("model", "small"), ("method", "mine")):
        (tmp_path / "mine" / group).mkdir(parents=True)
        block = next(b for b in blocks(README, "yaml") if f"name: {name}" in b)
        (tmp_path / "mine" / group / f"{name}.yaml").write_text(block)
    outcome = cli(*(a for a in arguments if a != "-m"), *([] if "--cfg" in arguments else ["--cfg", "job"]))
    if "-m" in arguments:  # a sweep's lists are no value for a single choice
        outcome = cli(*[re.sub(r",[^=]*$", "", a) for a in arguments if a != "-m"], "--cfg", "job")
    assert outcome.code == 0, outcome.text


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README + CONTRIBUTING):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README + CONTRIBUTING):
        assert (ROOT / target).exists(), target


def test_a_method_of_ones_own_trains(cli, tmp_path):
    (tmp_path / "mine" / "method").mkdir(parents=True)
    block = next(b for b in blocks(README, "yaml") if "name: mine" in b)
    (tmp_path / "mine" / "method" / "mine.yaml").write_text(block)
    outcome = cli("--config-dir", "./mine", *TINY, "job=train", "method=mine", "teacher.fit=null")
    assert outcome.code == 0, outcome.text
    assert "feature: input B×64×2×2" in outcome.text


def test_the_loss_of_contributing_trains(cli, tmp_path, monkeypatch):
    """The four files as they stand in CONTRIBUTING.md; the module lies beside, since the package is not edited here."""
    python = blocks(CONTRIBUTING, "python")
    yaml = blocks(CONTRIBUTING, "yaml")
    (tmp_path / "mine_loss_file.py").write_text(python[0])
    monkeypatch.syspath_prepend(tmp_path)
    for group, text in zip(("term", "method"), yaml, strict=True):
        (tmp_path / "mine" / group).mkdir(parents=True)
        text = text.replace("kd_lightning.losses.mine.", "mine_loss_file.")
        (tmp_path / "mine" / group / "mine.yaml").write_text(text)
    outcome = cli("--config-dir", "./mine", *TINY, "job=train", "method=mine", "teacher.fit=null")
    assert outcome.code == 0, outcome.text
    assert "mine: student B×64, teacher B×64" in outcome.text


def test_python_of_the_readme_is_right():
    from kd_lightning import load_run
    from kd_lightning.losses.kd import kd_loss

    text = blocks(README, "python")[0]
    assert "load_run(" in text
    assert "kd_loss(student_logits, teacher_logits, temperature=4.0)" in text
    assert callable(load_run)
    assert callable(kd_loss)
