"""What a finished run leaves to ship: every file does what PyTorch does, and the card tells the truth."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from kd_lightning import load_run
from kd_lightning.data.images.preprocess import apply_preprocessing
from kd_lightning.deploy.check import Figures, objection
from kd_lightning.deploy.folder import checked_in, exported_file
from kd_lightning.deploy.formats import executorch
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.experiment.settle import reopen
from kd_lightning.files.checksum import DamagedFileError, write_record
from kd_lightning.files.origin import mark
from kd_lightning.models.compress.fake_quant import FakeQuantConv2d, without_fake_quant
from kd_lightning.models.resnet import resnet8
from kd_lightning.training.nets import checkpoint_file
from tests.conftest import TINY
from tests.jobs.finished import finished_run, pictures

ALL = "export.formats=[onnx,torch_export,onnx_int8]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("export"), ALL, "export.license=apache-2.0")


@pytest.fixture
def record(finished):
    return json.loads((finished / "export" / "export.json").read_text())


@pytest.fixture(scope="module")
def test_split(finished):
    data = reopen(load_run(finished)).data
    batches = [data.ready(raw) for raw in data.loader("test", whole=True)]
    return torch.cat([b["image"] for b in batches]), torch.cat([b["target"] for b in batches])


def share(logits, classes):
    """Share of the rows that have this class first."""
    return float((logits.argmax(1) == classes).double().mean())


def test_the_record_tells_what_each_file_does(finished, record, test_split):
    image, target = test_split
    plain = load_run(finished).net(image).detach()
    assert record["pytorch"]["accuracy"] == pytest.approx(share(plain, target), abs=1e-3)
    for name, figures in record["formats"].items():
        path = finished / "export" / FORMATS[name].file
        logits = FORMATS[name].load(path)(image)
        assert figures["bytes"] == path.stat().st_size
        assert figures["accuracy"] == pytest.approx(share(logits, target), abs=1e-3)
        assert figures["agreement"] == pytest.approx(share(logits, plain.argmax(1)), abs=1e-3)
        gap = float((logits - plain).abs().max() / plain.abs().max())
        assert figures["difference"] == pytest.approx(gap, rel=0.2, abs=1e-5)
        assert figures["difference"] < 1e-4 or not FORMATS[name].exact
        assert figures["milliseconds_1"] > 0
    assert record["samples"] == len(target)
    assert record["split"] == "test"


def test_the_teacher_is_known_and_compared_with(finished, record, test_split):
    teacher = load_file(record["teacher"]["folder"] + "/test.safetensors")["logits"]
    assert record["teacher"]["accuracy"] == pytest.approx(share(teacher, test_split[1]), abs=1e-3)
    plain = ExportedStudent(finished, "onnx").run(test_split[0])
    assert record["formats"]["onnx"]["teacher_agreement"] == pytest.approx(share(plain, teacher.argmax(1)), abs=1e-3)


def test_int8_holds_int8_by_channel_and_is_smaller(finished, record):
    model = onnx.load(finished / "export" / "student.int8.onnx")
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) >= 8  # the convolutions of a ResNet-8
    scales = {t.name: t.dims for t in model.graph.initializer if t.name.endswith("_scale")}
    assert any(dims and dims[0] > 1 for dims in scales.values())
    assert record["formats"]["onnx_int8"]["bytes"] < 0.6 * record["formats"]["onnx"]["bytes"]
    assert record["formats"]["onnx_int8"]["difference"] > 0


def test_int8_ranges_come_from_its_examples_and_not_from_elsewhere(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)).eval()
    narrow = torch.randn(32, 1, 8, 8)
    for name, examples in (("narrow", narrow), ("wide", 100 * narrow)):
        FORMATS["onnx_int8"].write(net, examples, tmp_path / name)
    runs = {name: FORMATS["onnx_int8"].load(tmp_path / name) for name in ("narrow", "wide")}
    expected = net(narrow).detach()
    errors = {name: float((run(narrow) - expected).abs().max() / expected.abs().max()) for name, run in runs.items()}
    assert errors["narrow"] < 0.05 < errors["wide"]


def test_what_is_exported_later_is_added(finished, cli):
    export = finished / "export"
    before = {path.name: path.stat().st_mtime_ns for path in export.glob("student*")}
    outcome = cli("job=export", f"run={finished}", "export.formats=[torch_export]")
    assert outcome.code == 0, outcome.text
    after = {path.name: path.stat().st_mtime_ns for path in export.glob("student*")}
    assert before["student.onnx"] == after["student.onnx"]
    assert before["student.pt2"] < after["student.pt2"]
    assert set(json.loads((export / "export.json").read_text())["formats"]) == {"onnx", "torch_export", "onnx_int8"}


def test_a_changed_byte_of_an_exported_file_is_found(finished, record, tmp_path):
    export = shutil.copytree(finished / "export", tmp_path / "export")
    backends = {FORMATS[name].file: name for name in record["formats"]}
    assert set(record["files"]) == {*backends, "student.safetensors", "preprocessing.json"}
    for name in record["files"]:
        path = export / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 4]) + whole[-49:])
        weights = name == "student.safetensors"
        use = partial(
            checkpoint_file if weights else partial(exported_file, backend=backends.get(name, "onnx")), export
        )
        with pytest.raises(DamagedFileError, match=f"{path} is damaged"):
            use()
        path.write_bytes(whole)
    (export / "export.json").write_text((export / "export.json").read_text().replace('"accuracy"', '"accurac"', 1))
    with pytest.raises(DamagedFileError, match=r"export.json is damaged"):
        exported_file(export, "onnx")


def test_a_program_that_another_machine_wrote_needs_trust(finished, record, tmp_path, monkeypatch, cli):
    export = shutil.copytree(finished / "export", tmp_path / "export")
    assert exported_file(export, "torch_export") == export / "student.pt2"  # ours, wherever it lies
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    mark("a file of theirs")
    given = [f"run={export}", f"inputs=[{pictures(tmp_path / 'pictures', 1)[0]}]", "predict.backend=torch_export"]
    refused = cli("job=predict", *given)
    assert refused.code == 1
    assert "student.pt2 was not written by you on this machine" in refused.text
    assert cli("job=predict", *given, "trust=true").code == 0
    assert exported_file(export, "onnx").is_file()
    # Neither a made-up record nor an export of something else beside it makes it ours.
    onnx, program = FORMATS["onnx"], FORMATS["torch_export"]
    write_record(export / "export.json", {**record, **checked_in(export, [onnx], [program], record)})
    with pytest.raises(ValueError, match="not written by you"):
        exported_file(export, "torch_export")
    write_record(export / "export.json", {**record, "marks": {}})
    with pytest.raises(ValueError, match="not written by you"):
        exported_file(export, "torch_export")
    (export / "export.json").unlink()
    with pytest.raises(ValueError, match="not written by you"):
        exported_file(export, "torch_export")


def test_a_file_that_is_not_good_enough_is_taken_away(finished, cli, tmp_path):
    (tmp_path / "copy").mkdir()
    arm = load_run(finished).folder
    for file in arm.iterdir():
        if file.is_file():
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    outcome = cli("job=export", "run=copy", ALL, "export.tolerance=0", "export.accuracy_drop=-1")
    assert outcome.code == 1
    assert "The ONNX file of the student differs from PyTorch by" in outcome.text
    assert "The ONNX int8 file of the student loses" in outcome.text
    assert "student.quantise=true" in outcome.text
    left = {path.name for path in (tmp_path / "copy" / "export").iterdir()}
    assert not [name for name in left if name.endswith(".onnx")]
    assert "student.safetensors" in left


@pytest.mark.parametrize(
    ("exact", "difference", "accuracy", "good"),
    [(True, 2e-3, 0.9, False), (True, float("inf"), 0.9, False), (True, 5e-4, 0.5, True), (False, 1.0, 0.89, True),
     (False, 0.01, 0.87, False), (False, 0.01, 0.88, True)],
)  # fmt: skip
def test_exact_files_are_judged_by_logits_and_int8_by_accuracy(exact, difference, accuracy, good):
    figures = Figures(accuracy, 1, 1.0, 1.0, difference=difference)
    assert (objection(figures, 0.9, exact, 1e-3, 0.02, "accuracy") is None) == good


def test_the_card_runs_as_it_is_written(finished, monkeypatch, record):
    export = finished / "export"
    pictures(export, 1)[0].rename(export / "picture.png")
    monkeypatch.chdir(export)
    card = (export / "model_card.md").read_text()
    start, *uses, end = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert len(uses) == len(record["formats"])
    printed = []
    for use in uses:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec("\n".join([start, use, end]), {})
        printed.append(out.getvalue().strip())
    expected = [ExportedStudent(export, name) for name in record["formats"]]
    assert printed == [student.classify(student.read("picture.png"))[0][0]["class"] for student in expected]


def test_the_card_has_figures_origin_and_licences(finished, record):
    card = (finished / "export" / "model_card.md").read_text()
    assert "license: apache-2.0" in card.split("---")[1]
    for text in (record["data"]["fingerprint"], f"torch {torch.__version__.split('+')[0]}", "teacher: not stated",
                 "`image`: (B, 3, 8, 8)", "ONNX int8", f"{100 * record['pytorch']['accuracy']:.1f}"):  # fmt: skip
        assert text in card
    assert len((finished / "export" / "labels.txt").read_text().splitlines()) == 3


def test_numpy_and_onnxruntime_are_enough(finished, record):
    """Without PyTorch and without this package: what preprocessing.json says is all there is to know."""
    export = finished / "export"
    said = json.loads((export / "preprocessing.json").read_text())
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = ((pixels / 255 - said["mean"]) / said["std"]).transpose(2, 0, 1)[None].astype(np.float32)
    logits = onnxruntime.InferenceSession(str(export / "student.onnx")).run(["logits"], {"image": image})[0]
    from PIL import Image

    ours = load_run(finished).net(apply_preprocessing(Image.fromarray(pixels), said)).detach().numpy()
    np.testing.assert_allclose(logits, ours, atol=1e-4)


def test_a_student_is_refined_for_int8_and_ships_plain_weights(finished, cli):
    start = [
        "student.quantise=true",
        f"student.checkpoint={finished}",
        "job=train",
        "name=refined",
        "optimizer.lr=0.001",
    ]
    refused = cli(*TINY, *start[:1], *start[2:])
    assert refused.code == 1
    assert "student.checkpoint=<run>" in refused.text
    outcome = cli(*TINY, *start, "teacher.fit=null")
    assert outcome.code == 0, outcome.text
    loaded = load_run(outcome.folder)
    assert isinstance(loaded.net.conv1, FakeQuantConv2d)
    assert cli("job=export", f"run={outcome.folder}", "export.formats=[onnx]", "compare.latency=false").code == 0
    image = torch.randn(4, 3, 8, 8)
    exported = ExportedStudent(outcome.folder).run(image)
    torch.testing.assert_close(exported, without_fake_quant(loaded.net)(image).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(exported, loaded.net(image), rtol=1e-4, atol=1e-4)
    assert json.loads((outcome.folder / "export" / "export.json").read_text())["quantise"] is True


def test_a_refined_student_goes_on_with_the_teacher_that_it_had(finished, cli):
    refine = ["job=train", "student.quantise=true", f"student.checkpoint={finished}", "optimizer.lr=0.001"]
    store = f"teacher.store={finished.parents[1] / 'teachers'}"
    outcome = cli(*TINY, *refine, store)
    assert outcome.code == 0, outcome.text
    assert "finished earlier, taken from" in outcome.text  # not trained anew with the small learning rate
    other = cli(*TINY, *refine, store, "teacher.seed=7")
    assert "teacher resnet8: training" in other.text


def test_unknown_formats_get_a_near_name(cli, finished):
    outcome = cli("job=export", f"run={finished}", "export.formats=[onnx_int]")
    assert outcome.code == 1
    assert "Did you mean onnx_int8" in outcome.text


def test_without_executorch_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"kd-lightning\[mobile\]"):
        executorch.write(resnet8(3), torch.randn(2, 3, 8, 8), tmp_path / "x.pte")


def test_executorch_says_what_pytorch_says_and_int8_nearly(tmp_path):
    torch.manual_seed(0)
    net, images = resnet8(3).eval(), torch.randn(40, 3, 8, 8)
    expected = net(images[:5]).detach()
    errors, sizes = {}, {}
    for name in ("executorch", "executorch_int8"):
        path = tmp_path / FORMATS[name].file
        FORMATS[name].write(net, images, path)
        logits = FORMATS[name].load(path)(images[:5])
        errors[name], sizes[name] = float((logits - expected).abs().max() / expected.abs().max()), path.stat().st_size
    assert errors["executorch"] < 1e-5 < errors["executorch_int8"] < 0.2
    assert sizes["executorch_int8"] < 0.5 * sizes["executorch"]
    assert "executorch" in sys.modules
