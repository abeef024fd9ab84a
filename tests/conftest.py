"""Fixtures: the command line as a user has it, in this process, in an empty folder."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The key that marks exported files is made there, not in the home of whoever runs the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()

# Small and quick, no progress bar.
QUICK = [
    "data.batch_size=16",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "model@teacher=resnet8",
    "model@student=resnet8",
    "compare.latency=false",
    "teacher.check=off",  # two epochs on made-up samples make no teacher
    "export.check=off",  # it has tests of its own; another process takes seconds to start
]
TINY = [
    "data=synthetic",
    "data.source.samples=160",
    "data.image_size=8",
    "data.num_classes=3",
    "data.augment=[]",
    *QUICK,
]


@pytest.fixture(scope="module")
def composing():
    """Hydra's ``compose`` on the shipped configuration, for a whole file."""
    from hydra import initialize_config_dir

    from kd_lightning.config.conf_dir import conf_dir
    from kd_lightning.config.schema import register
    from kd_lightning.files.runs import register_resolvers

    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


@dataclass
class Outcome:
    """What a command did."""

    code: int
    text: str
    folder: Path | None


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Run ``python -m kd_lightning <arguments>`` in this process and in an empty folder."""
    from hydra.core.global_hydra import GlobalHydra

    from kd_lightning.__main__ import main
    from kd_lightning.files import runs

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        runs.RUN_DIRS.clear()
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["kd_lightning", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        out, err = capfd.readouterr()
        folders = sorted(tmp_path.glob("outputs/*/*/status.json"), key=lambda p: p.stat().st_mtime)
        return Outcome(code, out + err, folders[-1].parent if folders else None)

    return run


def pytest_collection_modifyitems(config, items):
    """Where there is no Chromium, its tests are deselected, which pytest counts; the summary names the reason."""
    from tests.jobs.browser import CHROMIUM

    without = [item for item in items if item.get_closest_marker("browser")] if CHROMIUM is None else []
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter):
    """Say what was not tested."""
    from tests.jobs.browser import CHROMIUM

    if CHROMIUM is None:
        terminalreporter.write_line("Not run: the tests marked 'browser' (no Chromium on this machine).")
