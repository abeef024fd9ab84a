"""Names and texts of strangers steer neither a terminal nor a table program."""

import csv
import json
import logging
import subprocess
import sys

import pytest

from kd_lightning.core.visible import install, visible
from kd_lightning.deploy.answers import write_answers
from kd_lightning.jobs import predict
from kd_lightning.report.console import console

EVIL = "\x1b]0;owned\x07cat\x9b31m\u202egpj\udcff"
SHOWN = r"\x1b]0;owned\x07cat\x9b31m\u202egpj\udcff"


def test_control_characters_are_spelt_out_and_texts_stay():
    assert visible(EVIL) == SHOWN
    text = "Grüße\tan\nalle 👩‍👩‍👧 日本 עברית"
    assert visible(text) == text


def test_no_line_of_a_log_steers(capsys):
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        install()
        logging.getLogger("kd_lightning.data.anything").warning("%s is broken", EVIL)
    finally:
        logging.getLogger().removeHandler(handler)
    assert f"{SHOWN} is broken" in capsys.readouterr().err


def test_no_table_steers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    answer = {"file": EVIL, "classes": [{"class": f"a{EVIL}", "probability": 0.5}, {"class": EVIL, "probability": 0.5}]}
    predict._show([answer, {"file": EVIL, "error": EVIL}])
    console().print(f"best: {EVIL}", markup=False)
    shown = capsys.readouterr().out
    assert shown.count(SHOWN) == 5
    assert not {*shown} & {*EVIL[:1], "\x07", "\x9b", "\u202e", "\udcff"}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1"])
def test_no_cell_is_a_formula(text, tmp_path):
    write_answers([{"file": text, "classes": [{"class": text, "probability": 0.5}]}], tmp_path / "a.csv")
    (row,) = csv.DictReader((tmp_path / "a.csv").open(newline=""))
    assert row == {"file": f"'{text}", "class": f"'{text}", "probability": "0.5", "error": ""}
    write_answers([{"file": text, "class": "-1"}], tmp_path / "a.csv")
    (row,) = csv.DictReader((tmp_path / "a.csv").open(newline=""))
    assert row["class"] == "-1"  # a number is one


def test_answers_for_odd_names_are_written_and_told(tmp_path):
    write_answers([{"file": EVIL, "value": 1.0}], tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"file": EVIL, "value": 1.0}
    write_answers([{"file": EVIL, "value": -1.0}], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith(f"{SHOWN},-1.0")


def test_no_error_steers():
    code = "import sys; sys.argv[1:] = ['job=\\x1b[2J']; from kd_lightning.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
