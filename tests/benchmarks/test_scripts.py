"""Every benchmark runs to its end; what it measures is not looked at."""

import sys

import pytest
from benchmarks.clock import Times

from benchmarks import chunked_head, gpu, peers, run


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """Run a script's command line in an empty folder; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, "--tiny", *arguments])
        module.main()
        return capsys.readouterr().out

    return call


SECTIONS = [pytest.param(name, marks=pytest.mark.slow if name == "compile" else ()) for name in run.SECTIONS]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_prints_a_table(script, section, tmp_path):
    text = script(run, "--only", section)
    assert text.startswith("Machine: ")
    assert f"python -m benchmarks.run --only {section}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) >= 2, text
    assert "nan" not in text
    assert not list(tmp_path.iterdir()), "a benchmark leaves nothing behind"


def test_gpu_figures_run_on_a_cpu(script):
    text = script(gpu)
    for title in ("3x32x32", "3x64x64", "GPT-2", "Divergence"):
        assert title in text


def test_chunked_head_is_measured_beside_whole_logits(script):
    text = script(chunked_head, "--betas", "0.5")
    rows = [line for line in text.splitlines() if line.startswith("| JSD(0.5)")]
    assert [row.split(" | ")[1] for row in rows[:2]] == ["eager", "chunked"]
    assert all(float(row.rstrip(" |").rpartition(" ")[2]) < 1e-5 for row in rows)


def test_gpu_figures_need_a_gpu_or_tiny(monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="--tiny"):
        gpu.main()


@pytest.mark.slow
def test_peers_without_the_peer(script):
    text = script(peers, "--without-peer", "--folder", "bench")
    assert "kd_lightning, live teacher" in text
    assert "kd_lightning, teacher.cache=read" in text
    assert "not measured" in text


def test_ratios_are_taken_within_a_round():
    """A machine that slows down for a while slows both: the ratio must not see it."""
    times = Times({"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 2.0]})
    assert times.ratio("slow", "fast") == 2.0
    assert times.difference("slow", "fast") == 2.0
