"""W&B's names and workspace, and trackio, against stand-ins for packages that need not be installed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from kd_lightning.report.loggers import wandb as names
from kd_lightning.report.loggers import wandb_logger
from kd_lightning.report.loggers.trackio_logger import TrackioLogger
from tests.report import card


class Made(SimpleNamespace):
    """Anything that is built from keywords."""


def stand_in(monkeypatch, name, **members):
    module = ModuleType(name)
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def workspaces(monkeypatch):
    """wandb-workspaces that only remembers."""
    saved = []

    class Workspace(Made):
        def save(self):
            saved.append(self)
            self.url = f"https://wandb.ai/{self.entity}/{self.project}"
            return self

    parts = dict.fromkeys(("Section", "RunsetSettings"), Made) | {"Metric": str, "Workspace": Workspace}
    panels = dict.fromkeys(("LinePlot", "BarPlot", "ScalarChart", "MediaBrowser", "WeavePanelSummaryTable"), Made)
    module = stand_in(monkeypatch, "wandb_workspaces.workspaces", **parts)
    stand_in(monkeypatch, "wandb_workspaces", workspaces=module)
    v2 = stand_in(monkeypatch, "wandb_workspaces.reports.v2", **panels)
    stand_in(monkeypatch, "wandb_workspaces.reports", v2=v2)
    return saved


def test_the_workspace_shows_what_comparisons_log(workspaces):
    panels = [panel for section in names.sections() for panel in section.panels]
    logged = set(wandb_logger.summary(card.comparison()))
    bars = {key for panel in panels for key in getattr(panel, "metrics", [])}
    assert bars == {key for key in bars if key.startswith("test/")}
    assert bars - {"test/agreement/teacher"} <= logged
    assert {"gain/top1", "gain/p"} == {panel.metric for panel in panels if hasattr(panel, "metric")}
    tables = {panel.table_name for panel in panels if hasattr(panel, "table_name")}
    assert set(wandb_logger.tables(card.comparison())) | {names.SAMPLES} == tables


def test_tables_have_heads_as_wide_as_their_rows():
    for key, (head, rows) in wandb_logger.tables(card.comparison()).items():
        assert rows, key
        assert {len(row) for row in rows} == {len(head)}, key
        assert all(head), key


def test_a_workspace_needs_a_login(workspaces, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="wandb login"):
        names.build_workspace()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(ValueError, match="wandb login"):
        names.build_workspace()
    assert workspaces == []


def test_the_workspace_is_saved_where_it_is_asked_for(workspaces, monkeypatch, capsys):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me"))
    names.main(["--project", "p"])
    assert capsys.readouterr().out == "https://wandb.ai/me/p\n"
    assert workspaces[0].runset_settings.groupby == ["Group", "JobType"]
    assert names.build_workspace("q", "team") == "https://wandb.ai/team/q"


def test_the_command_line_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(SystemExit) as stop:
        names.main([])
    assert stop.value.code == 2
    assert "kd-lightning[workspaces]" in capsys.readouterr().err


def test_trackio_gets_every_arm_as_a_run_of_its_own(monkeypatch):
    opened, logged, finished = [], [], []

    def init(**settings):
        opened.append(settings)
        return SimpleNamespace(
            log=lambda values, step=None: logged.append((values, step)), finish=lambda: finished.append(1)
        )

    stand_in(monkeypatch, "trackio", init=init)
    for arm in ("student alone, seed 0", "student + kd, seed 0"):
        logger = TrackioLogger("p", name=arm, group="run-1", config={"seed": 0})
        logger.log_metrics({"train/loss": 1.0}, step=3)
        logger.finalize("success")
    report = TrackioLogger("p", name="compare", group="run-1")
    report.log_report(card.comparison(), {})
    report.finalize("success")
    assert [one["name"] for one in opened] == [
        f"run-1 · {n}" for n in ("student alone, seed 0", "student + kd, seed 0", "compare")
    ]
    assert {one["group"] for one in opened} == {"run-1"}
    assert opened[0]["config"] == {"seed": 0}
    assert logged[0] == ({"train/loss": 1.0}, 3)
    assert logged[-1][0]["test/top1/teacher"] == pytest.approx(0.97)
    assert len(finished) == 3


def test_trackio_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ModuleNotFoundError, match=r"kd-lightning\[trackio\]"):
        TrackioLogger()
