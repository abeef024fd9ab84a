"""Answers for files: from folders and standard input, in any exported format, none lost."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from kd_lightning import load_run
from kd_lightning.deploy.student import ExportedStudent
from tests.data.images.hostile import EPS, huge_when_unpacked
from tests.jobs.finished import finished_run, pictures


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("predict"), "export.formats=[onnx,onnx_int8]")


def test_a_folder_in_batches_equals_pytorch_one_by_one(finished, cli):
    files = pictures(Path("pictures"), 7)
    outcome = cli("job=predict", f"run={finished}", "inputs=[pictures]", "predict.batch_size=3", "predict.top=2",
                  "predict.output=new/answers.jsonl")  # fmt: skip
    assert outcome.code == 0, outcome.text
    answers = [json.loads(line) for line in Path("new/answers.jsonl").read_text().splitlines()]
    assert [a["file"] for a in answers] == [str(file) for file in files]
    net, student = load_run(finished).net, ExportedStudent(finished)
    for answer, file in zip(answers, files, strict=True):
        with torch.no_grad():
            probabilities = net(student.read(file)).softmax(1)[0]
        assert [c["class"] for c in answer["classes"]] == [
            student.preprocessing["class_names"][i] for i in probabilities.topk(2).indices.tolist()
        ]
        assert answer["classes"][0]["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)


def test_paths_on_standard_input_and_int8(finished, cli, monkeypatch):
    files = pictures(Path("with space"), 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{file}\n" for file in files) + "\n"))
    outcome = cli("job=predict", f"run={finished}", "inputs=[-]", "predict.backend=onnx_int8", "predict.output=a.csv")
    assert outcome.code == 0, outcome.text
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [str(file) for file in files]
    student = ExportedStudent(finished, "onnx_int8")
    best = [student.classify(student.read(file))[0][0] for file in files]
    assert [row["class"] for row in rows] == [b["class"] for b in best]
    assert [float(row["probability"]) for row in rows] == pytest.approx([b["probability"] for b in best], abs=1e-5)


def test_a_broken_picture_loses_nothing(finished, cli):
    files = pictures(Path("pictures"), 4)
    files[1].write_bytes(files[1].read_bytes()[:60])
    files[2].write_text("no picture")
    Path("pictures/4.png").write_bytes(huge_when_unpacked(20_000))
    # PIL would start Ghostscript for it
    Path("pictures/5.png").write_text(EPS)
    outcome = cli("job=predict", f"run={finished}", "inputs=[pictures]", "predict.output=a.csv")
    assert outcome.code == 1
    assert "4 of 6 pictures could not be read" in outcome.text
    assert "Traceback" not in outcome.text
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [bool(row["class"]) for row in rows] == [True, False, False, True, False, False]
    assert all(f"{i}.png" in rows[i]["error"] for i in (1, 2, 4, 5))
    assert "decompression bomb" in rows[4]["error"]
    assert "cannot identify" in rows[5]["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inputs=[nowhere.png]"], "nowhere.png does not exist"),
        (["inputs=[]"], "inputs=[-]"),
        (["inputs=[empty]"], "holds no pictures"),
        (["inputs=[pictures]", "predict.backend=onnx_int9"], "Did you mean onnx_int8"),
        (["inputs=[pictures]", "predict.backend=torch_export"], "export.formats=[torch_export]"),
        (["inputs=[pictures]", "predict.output=a.txt"], ".csv or .jsonl"),
        (["inputs=[pictures]", "predict.top=0"], "At least one class"),
    ],
)
def test_what_cannot_be_answered_is_said(finished, cli, arguments, words):
    pictures(Path("pictures"), 1)
    Path("empty").mkdir()
    outcome = cli("job=predict", f"run={finished}", *arguments)
    assert outcome.code == 1
    assert words in outcome.text
    assert "Traceback" not in outcome.text


def test_a_folder_without_export_is_told_how(cli):
    Path("nothing").mkdir()
    outcome = cli("job=predict", "run=nothing", "inputs=[x.png]")
    assert outcome.code == 1
    assert "job=export run=nothing" in outcome.text
