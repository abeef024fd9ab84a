"""The benchmark of the losses runs to its end and has every loss; its measure of memory counts what it says."""

import sys

import torch
from benchmarks.memory import peak_bytes

from benchmarks import losses


def test_every_loss_has_a_row(monkeypatch, tmp_path, capsys):
    target = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["losses", "--tiny", "--write", str(target)])
    losses.main()
    page = target.read_text()
    assert page.startswith("# What a loss costs")
    assert "Machine: " in page
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")}
    expected = set(losses.own_terms())
    assert {"kd", "ls", "dkd", "simkd", "fcfd", "crd", "sskd", "mlkd", "rkd_angle"} <= expected
    assert expected | {losses.STUDENT, losses.TEACHER} <= rows
    assert "nan" not in page


def test_peak_counts_what_is_alive_at_once():
    x = torch.zeros(1000, requires_grad=True)  # 4,000 bytes

    def released():
        y = x.detach()
        for _ in range(10):
            y = y.exp()

    def kept():
        y = x
        for _ in range(10):
            y = y.exp()  # keeps its result for the backward pass
        return y

    assert peak_bytes(released) == 8_000
    assert peak_bytes(kept) == 40_000
    assert peak_bytes(lambda: x.detach().view(10, 100)[2:]) == 0
    assert peak_bytes(lambda: x.detach().add_(1)) == 0
