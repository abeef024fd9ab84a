"""The report card and the loggers through the command line."""

import json
import subprocess
import sys

import pytest
import wandb

from kd_lightning.report.loggers.wandb import TABLES, build_workspace
from tests.conftest import TINY


def read_wandb(path):
    """A .wandb file by W&B's own local reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    summary = json.loads(subprocess.run([*command, "--summary", str(path)], capture_output=True, check=True).stdout)
    lines = subprocess.run([*command, str(path)], capture_output=True, check=True, text=True).stdout.splitlines()
    record = next(one["run"] for one in map(json.loads, lines) if one["type"] == "run")
    return record, summary


def test_an_offline_run_reads_back(cli, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    wandb.setup()  # its process keeps this working folder, as that of a notebook would
    monkeypatch.chdir(tmp_path)
    outcome = cli(*TINY, "logger=[wandb,csv]", "seeds=[0,1]", "export.formats=[]")
    assert outcome.code == 0, outcome.text
    found = [read_wandb(path) for path in sorted(outcome.folder.parents[1].rglob("offline-run-*/*.wandb"))]
    assert sorted(record["job_type"] for record, _ in found) == [
        "alone",
        "alone",
        "compare",
        "distilled",
        "distilled",
        "teacher",
    ]
    assert {record["run_group"] for record, _ in found} == {outcome.folder.name}
    (report,) = [summary for record, summary in found if record["job_type"] == "compare"]
    assert set(TABLES) <= set(report["summary"])
    assert report["summary"]["report/page"]["_type"] == "html-file"
    metrics = json.loads((outcome.folder / "metrics.json").read_text())
    assert report["summary"]["test/top1/distilled"] == pytest.approx(metrics["arms"]["student + kd"]["top1"]["mean"])
    assert report["summary"]["gain/top1"] == pytest.approx(
        metrics["contrasts"]["student + kd"]["top1_difference"]["mean"]
    )
    for record, summary in found:
        if record["job_type"] == "distilled":
            assert {"train/ce", "train/kd", "val/top1", "grad/ce", "grad/kd", "grad/cosine"} <= set(summary["summary"])
            assert summary["config"]["method"] == "kd"


def test_the_card_is_measured_once_and_can_be_switched_off(cli, monkeypatch):
    outcome = cli(*TINY, "export.formats=[]")
    assert outcome.code == 0, outcome.text
    arm = json.loads((outcome.folder / "metrics.json").read_text())["arms"]["student + kd"]
    assert len(arm["robustness"]["noise"]) == 3
    assert 0 < arm["similarity"]["embedding"]["embedding"] <= 1.0001
    assert set(arm["gradients"]["norms"]) == {"ce", "kd"}
    assert (outcome.folder / "kd" / "seed_0" / "validation.safetensors").is_file()
    page = (outcome.folder / "report.html").read_text()
    assert all(f'<h2 id="{key}">' in page for key in ("robustness", "similarity", "calibration", "confusion"))

    from kd_lightning.experiment import probes as _probes

    monkeypatch.setattr(_probes, "load_net", lambda *a: pytest.fail("measured again"))
    again = cli("job=compare", f"runs={outcome.folder}", "compare.latency=false")
    assert again.code == 0, again.text
    off = cli(*TINY, "export.formats=[]", "compare.robustness=false", "compare.cka=false", "callbacks=default")
    assert off.code == 0, off.text
    arm = json.loads((off.folder / "metrics.json").read_text())["arms"]["student + kd"]
    assert not {"robustness", "similarity", "gradients"} & set(arm)


def test_a_teacher_that_was_loaded_is_on_the_card(cli):
    outcome = cli(*TINY, "teacher.fit=null", "export.formats=[]")
    assert outcome.code == 0, outcome.text
    arms = json.loads((outcome.folder / "metrics.json").read_text())["arms"]
    assert set(arms["teacher"]["robustness"]) == {"clean", "noise", "blur", "shift"}
    assert "embedding" in arms["student alone"]["similarity"]


def test_missing_packages_are_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    outcome = cli(*TINY, "job=train", "method=ce", "logger=trackio")
    assert outcome.code == 1
    assert "pip install 'kd-lightning[trackio]'" in outcome.text
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ModuleNotFoundError, match=r"kd-lightning\[workspaces\]"):
        build_workspace()
