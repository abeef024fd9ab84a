"""The export is tried before the training is paid for."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kd_lightning.config.schema_jobs import Export
from kd_lightning.core.watch import Watch, watching
from kd_lightning.deploy.trial import Trial, attempt, beside, check_export, refuse

IMAGES = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Looks(nn.Module):
    """What it does depends on what it sees: no exporter can follow."""

    def __init__(self, num_classes=3, **_):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(num_classes))

    def forward(self, image):
        return image.flatten(1)[:, :3] * (1 if image.sum() > 0 else 2)


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_what_goes_has_nothing_said_of_it_and_what_does_not_is_named():
    assert attempt(Trial(plain(), IMAGES, ["torch_export", "onnx"], 1e-3)) == []
    (found,) = attempt(Trial(Looks(), IMAGES, ["torch_export"], 1e-3))
    assert found.startswith("The torch.export file of the student cannot be written of a Looks.")
    with pytest.raises(ValueError, match=r"tried on the student before its training \(export.check\)"):
        refuse([found])


def test_a_file_that_answers_otherwise_than_the_student_is_named(monkeypatch):
    from kd_lightning.deploy.formats.registry import FORMATS

    form = copy.copy(FORMATS["torch_export"])
    object.__setattr__(form, "load", lambda path: lambda inputs: torch.zeros(len(inputs), 3))
    monkeypatch.setattr("kd_lightning.deploy.trial.FORMATS", {"torch_export": form})
    (found,) = attempt(Trial(plain(), IMAGES, ["torch_export"], 1e-3))
    assert "differs from PyTorch by 1.00e+00" in found


@pytest.mark.parametrize(
    ("export", "message"),
    [
        (Export(formats=["onxn"]), "Did you mean onnx"),
        (Export(formats=["huggingface"]), r"no .*: it is for texts.*Leave huggingface out"),
    ],
)
def test_formats_that_cannot_be_are_refused(export, message):
    with pytest.raises(ValueError, match=message):
        check_export(export, plain(), "image")


def test_a_format_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr("kd_lightning.files.packages.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="onnx needs onnx, onnxruntime, which is not installed"):
        check_export(Export(formats=["onnx"]), plain(), "image")


def test_beside_a_training_it_stops_it(tmp_path):
    callback, given = Watch(), tmp_path / "trial.pkl"
    given.write_bytes(pickle.dumps(Trial(Looks(), IMAGES, ["torch_export"], 1e-3)))
    with beside(given) as asked, watching(asked):
        callback.on_train_batch_end()  # it is at work
        asked.process.join()
        with pytest.raises(ValueError, match=r"torch.export file of the student cannot be written"):
            callback.on_train_batch_end()
    callback.on_train_batch_end()  # outside nobody is asked


def test_the_pipeline_is_refused_before_anything_is_trained(cli):
    from tests.conftest import TINY

    tiny = [one for one in TINY if not one.startswith("export.check")]
    looks = "student.net={_target_: tests.deploy.test_trial.Looks}"
    outcome = cli(*tiny, "export.check=first", looks, "export.formats=[torch_export]")
    assert outcome.code == 1
    assert "torch.export file of the student cannot be written" in outcome.text
    assert ": training ..." not in outcome.text
