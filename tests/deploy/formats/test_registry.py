"""A file is an export format: what is put into the folder is found, written, checked, told of and run."""

import ast
import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kd_lightning import load_run
from kd_lightning.deploy import formats
from kd_lightning.deploy.formats.registry import FORMATS, found
from kd_lightning.deploy.student import ExportedStudent
from tests.conftest import TINY
from tests.jobs.finished import pictures

STRANGER = '''\
"""TorchScript, as a stranger would add it."""

import torch

from kd_lightning.deploy.formats.base import Format
from kd_lightning.deploy.inputs import part, tensors_of

USE = 'net = torch.jit.load("{file}"); logits = net(*map(torch.from_numpy, {tensors})).numpy()'


def write(net, examples, path):
    torch.jit.save(torch.jit.trace(net, tensors_of(part(examples, 0, 2))), path)


def load(path):
    net = torch.jit.load(path)
    return lambda inputs: net(*tensors_of(inputs)).detach() * FACTOR


FACTOR = 1
STRANGE = Format("strange", "student.strange", "Strange", write, load, USE, takes=("image",), packages=("pytest",))
'''


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put a file beside the formats: what the next start of the program finds is there."""
    folder = tmp_path / "more_formats"
    folder.mkdir()
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])

    def put(text, name="stranger"):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"{formats.__name__}.{name}", raising=False)
        for key, form in found(formats).items():
            monkeypatch.setitem(FORMATS, key, form)

    yield put
    for module in [each for each in sys.modules if each.startswith(f"{formats.__name__}.stranger")]:
        del sys.modules[module]


def test_a_stranger_is_exported_checked_told_of_and_run(put, cli, tmp_path):
    outcome = cli(*TINY, "job=train", "method=ce", "teacher.fit=null", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    put(STRANGER)
    done = cli("job=export", f"run={outcome.folder}", "export.formats=[strange]")
    assert done.code == 0, done.text
    record = json.loads((outcome.folder / "export" / "export.json").read_text())
    assert list(record["formats"]) == ["strange"]
    assert record["formats"]["strange"]["agreement"] == 1
    assert record["software"]["pytest"] == importlib.metadata.version("pytest")
    card = (outcome.folder / "export" / "model_card.md").read_text()
    assert "| student.strange | Strange |" in card
    assert 'net = torch.jit.load("student.strange"); logits = net(*map(torch.from_numpy, [image])).numpy()' in card

    image = torch.randn(5, 3, 8, 8)
    expected = load_run(outcome.folder).net(image).detach()
    torch.testing.assert_close(ExportedStudent(outcome.folder, "strange").run(image), expected, rtol=1e-4, atol=1e-5)
    picture = pictures(tmp_path / "pictures", 1)[0]
    said = cli("job=predict", f"run={outcome.folder}", f"inputs=[{picture}]", "predict.backend=strange",
               "predict.output=answers.jsonl")  # fmt: skip
    assert said.code == 0, said.text
    assert json.loads((tmp_path / "answers.jsonl").read_text())["file"] == str(picture)

    put(STRANGER.replace("FACTOR = 1", "FACTOR = 2"))
    wrong = cli("job=export", f"run={outcome.folder}", "export.formats=[strange]")
    assert wrong.code == 1
    assert "The Strange file of the student differs from PyTorch by" in wrong.text


@pytest.mark.parametrize(
    ("key", "value", "given"),
    [("name", "strange", '"strange", "student.odd"'), ("file", "student.strange", '"odd", "student.strange"')],
)
def test_two_formats_of_one_name_or_file_are_refused(put, key, value, given):
    put(STRANGER)
    with pytest.raises(ValueError, match=rf"have the {key} '{value}'.*formats\.stranger and.*formats\.stranger_too"):
        put(STRANGER.replace('"strange", "student.strange"', given), "stranger_too")


def test_one_format_seen_from_two_files_is_one(put):
    put(STRANGER)
    put("from kd_lightning.deploy.formats.stranger import STRANGE", "stranger_too")
    assert [name for name, form in FORMATS.items() if form.file == "student.strange"] == ["strange"]


def test_a_package_without_formats_has_none():
    empty = ModuleType("empty")
    empty.__path__ = []
    assert found(empty) == {}


def test_lists_show_the_usual_ones_first():
    usual = ["onnx", "torch_export", "onnx_int8", "executorch", "executorch_int8", "huggingface"]
    assert list(FORMATS)[: len(usual)] == usual


@pytest.mark.parametrize("file", sorted(Path(formats.__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_finding_them_imports_nothing_heavy(file):
    light = {*sys.stdlib_module_names, "kd_lightning", "numpy", "torch"}
    for node in ast.parse(file.read_text()).body:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= light
