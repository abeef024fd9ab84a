"""A folder that somebody else made runs no code, by whichever door it comes in."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import OmegaConf

from kd_lightning.config.choices import published
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.trust import Trust, check_named, current_trust, reads_back, trusting
from kd_lightning.config.values import read_settings
from kd_lightning.deploy.outputs import task_of
from kd_lightning.experiment.settle import reopen
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.packages import package_folder
from kd_lightning.training.nets import load_run

RUN = Path(__file__).parents[1] / "experiment/before/store/train/2026-01-01_00-00-00"

NEEDED = [
    "torch.nn.Linear",
    "torch.nn.functional.mse_loss",
    "torch.optim.lr_scheduler.OneCycleLR",
    "torchvision.models.resnet18",
    "torchvision.transforms.v2.RandomErasing",
    "timm.create_model",
    "timm.models.resnet.resnet18",
    "timm.optim.Lion",
    "transformers.BertForSequenceClassification",
    "transformers.BertConfig",
    "transformers.get_linear_schedule_with_warmup",
    "torchmetrics.Accuracy",
    "torchmetrics.regression.SpearmanCorrCoef",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "kd_lightning.data.sources.tensors.Tensors",
]
REFUSED = [
    "os.system",
    "builtins.eval",
    "functools.partial",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "numpy.load",
    "joblib.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.Module.apply",
    "torch.optim.swa_utils.update_bn",
    "torchvision.datasets.MNIST",
    "torchvision.io.read_file",
    "timm.models.load_checkpoint",
    "timm.models.load_custom_pretrained",
    "transformers.pipeline",
    "transformers.AutoModel.from_pretrained",
    "transformers.BertModel.from_pretrained",
    "torchmetrics.text.BERTScore",
    "kd_lightning.models.registry.pickle.loads",
    "kd_lightning.jobs.pipeline.run",
    "kd_lightning.files.runs.write_json",
    "kd_lightning.models.registry._unwrap",
    "kd_lightnings.anything",
]


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_training_needs_is_built_from_a_folder(name):
    check_named({"student": {"net": {"_target_": name}}}, "config.yaml")


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_run_code_is_not(name):
    with pytest.raises(ValueError, match=rf"student.net._target_ names {name}.*could run any code"):
        check_named({"student": {"net": {"_target_": name}}}, "config.yaml")


@pytest.mark.parametrize(
    "content",
    [
        {"net": {"_target_": "${x}"}, "x": "os.system"},
        {"net": "${oc.decode:'{_target_: os.system, command: id}'}"},
        {"loss": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
        {"loss": {"_target_": "hydra.utils.get_method", "_args_": ["os.system"]}},
        {"net": {"_target_": "kd_lightning.models.hub.hub", "name": "resnet18", "checkpoint_path": "evil.pth"}},
        {"tokenizer": {"_target_": "kd_lightning.data.text.tokenizers.Pretrained", "trust_remote_code": True}},
        {"data": {"task": "antigravity.Task"}},
        {"metrics": {"tasks": ["classification", "antigravity.Task"]}},
        {"list": [{"deep": [{"_target_": "os.system"}]}]},
    ],
    ids=str,
)
def test_no_way_around(content):
    with pytest.raises(ValueError, match="could run any code"):
        check_named(content, "config.yaml")


def test_everything_that_is_shipped_may_come_back():
    text = "".join(path.read_text() for path in conf_dir().rglob("*.yaml") if "hydra" not in path.parts)
    names = {*re.findall(r"_target_: ([\w.]+)", text)}
    assert len(names) > 100
    for name in names:
        check_named({"_target_": name}, "conf")


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A run whose student is of a package that leaves a mark when it is imported."""
    (tmp_path / "foreign_nets").mkdir()
    mark = tmp_path / "mark"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom kd_lightning.models.mlp import mlp as net\n"
    (tmp_path / "foreign_nets/__init__.py").write_text(code + "from torch import load\ndef own(**_): return net(**_)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_nets", raising=False)
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    text = (run / "config.yaml").read_text()
    assert "trust" not in text
    text = text.replace("kd_lightning.models.mlp.mlp", "foreign_nets.own") + "trust: true\n"
    (run / "config.yaml").write_text(text)
    return run, mark


def test_no_door_builds_what_a_folder_names(foreign, cli):
    run, mark = foreign
    for door in (load_run, lambda path: reopen(Artifact.open(path)), lambda path: Artifact.open(path).settings):
        with pytest.raises(ValueError, match=r"foreign_nets.own.*trust=\[foreign_nets\]"):
            door(run)
    export = run / "export"
    export.mkdir()
    for name in ("config.yaml", "student.safetensors"):
        shutil.copyfile(run / name, export / name)
    for said in ("export", "compare"):
        outcome = cli(f"job={said}", f"run={run}")
        assert outcome.code == 1
        assert "names foreign_nets.own" in outcome.text, outcome.text
    with pytest.raises(ValueError, match=r"foreign_nets\.Task"):
        task_of({"task": "foreign_nets.Task"})
    with pytest.raises(FileNotFoundError, match="package alone"):
        package_folder("foreign_nets.data")
    assert not mark.exists()


def test_what_the_user_trusts_is_built(foreign, cli):
    run, mark = foreign
    outcome = cli("job=evaluate", f"run={run}", "trust=[foreign_nets]")
    assert mark.exists()
    assert "could run any code" not in outcome.text
    with trusting("foreign_nets"), pytest.raises(ValueError, match=r"foreign_nets\.load"):  # torch's, under its name
        check_named({"net": {"_target_": "foreign_nets.load"}}, "config.yaml")
    with trusting(True):
        check_named({"net": {"_target_": "os.system"}}, "config.yaml")
    with pytest.raises(ValueError, match=r"trust=\['-'\]"):
        Trust.given(["-"])


@pytest.mark.usefixtures("composing")
def test_a_command_reads_back_what_it_names_itself_and_no_folder_says_whom_to_trust(tmp_path):
    raw = compose("config", ["student.net._target_=my_package.Net", "+data.task=my_package.Even", "trust=[other]"])
    trust = Trust.of_command(OmegaConf.to_container(raw))
    assert {"my_package.Net", "my_package.Even"} <= trust.names
    assert trust.packages == ("other",)
    path = tmp_path / "config.yaml"
    path.write_text("student: {net: {_target_: my_package.Net}}\ntrust: true\n")
    with trusting(trust):
        assert read_settings(path).trust is None


def test_a_pickle_in_the_place_of_a_huggingface_model_is_not_asked(tmp_path):
    from kd_lightning.deploy.formats.huggingface import load

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["AutoModel"]}))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match="AutoModel, which is no model of transformers"):
        load(tmp_path)


@pytest.mark.usefixtures("composing")
def test_a_method_that_is_composed_later_is_read_back_too():
    with trusting(Trust()):
        reads_back({"terms": {"own": {"loss": {"_target_": "my_package.Loss"}}}})
        check_named({"_target_": "my_package.Loss"}, "config.yaml")
        published("method", "kd")
        assert "kd_lightning.losses.kd.KDLoss" in current_trust().names
    assert "my_package.Loss" not in current_trust().names
