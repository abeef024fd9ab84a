"""Language models through the command line: the general stage before the task, chosen samples, judged by task."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from transformers import AutoTokenizer

from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import register
from kd_lightning.config.values import settings_of
from kd_lightning.data.text.tokenizers import BPE
from kd_lightning.experiment.settle import settle
from kd_lightning.experiment.upstream import prepare_student
from kd_lightning.files.artifact import Part
from kd_lightning.files.runs import register_resolvers
from kd_lightning.models.language.tiny import tiny_bert
from kd_lightning.models.registry import load_body
from kd_lightning.training import store as store_module
from kd_lightning.training.nets import build_net
from kd_lightning.training.roles import check_tokenizer
from kd_lightning.training.store import shared_nets
from kd_lightning.training.training import Training
from tests.conftest import TINY
from tests.jobs.checkpoints import bert
from tests.jobs.test_experiments import glue_tinybert


def composed(*overrides):
    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_student_starts_from_what_it_learnt_on_plain_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["+experiment=glue_tinybert", "trainer=smoke", *glue_tinybert(tmp_path)]
    settled = settle(Command(composed(*common)))
    without = build_net(settled.settings.student, 0)
    student = prepare_student(settled).settings.student
    assert settled.settings.student.body is None
    learnt = load_file(f"{student.body}/student.safetensors")
    net = build_net(student, 0)
    body = net.base_model.state_dict()
    shared = [key for key in learnt if key in body and not key.startswith("pooler.")]
    assert len(shared) > 20
    assert all(torch.equal(body[key], learnt[key]) for key in shared)
    layer = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(without.base_model.state_dict()[layer], body[layer])

    written = (tmp_path / student.body / "arm.json").stat().st_mtime_ns
    again = prepare_student(settle(Command(composed(*common)))).settings.student
    assert again.body == student.body
    assert (tmp_path / student.body / "arm.json").stat().st_mtime_ns == written


def test_the_ranks_of_a_distributed_training_do_not_wait_for_their_first(tmp_path, monkeypatch):
    """It holds the lock while it trains together with them."""
    monkeypatch.chdir(tmp_path)
    settled = settle(Command(composed(*TINY)))
    store = shared_nets(settled.settings.teacher.store)
    training = Training(settled.settings, settled.data, {}, "a net", Part.TEACHER)
    with store.held(training):
        monkeypatch.setattr(store_module, "fit", lambda *given: given[1])
        monkeypatch.setattr(store_module, "is_main_process", lambda: False)
        assert store.obtain(training) == store.place(training)


def student(*overrides):
    """The student's net."""
    data = ["data=synthetic_text", "data.num_classes=3", "data.vocab_size=260", "data.pad_token_id=256"]
    return build_net(settings_of(composed(*data, *overrides)).student, 0)


def test_another_body_is_refused(tmp_path):
    bert(tmp_path / "four")
    net = student("model@student=hf", f"student.net.name={bert(tmp_path / 'two', 2)}")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_body(net, tmp_path / "two" / "model.safetensors")
    head = [key for key in before if not key.startswith("bert.")]
    assert head
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in head)
    wider = student("model@student=tiny_bert", "student.net.width=64")
    with pytest.raises(ValueError, match="holds another body"):
        load_body(wider, tmp_path / "four" / "model.safetensors")
    with pytest.raises(ValueError, match="no model of transformers"):
        load_body(torch.nn.Linear(2, 2), tmp_path / "two" / "model.safetensors")


def test_the_effect_of_choosing_the_samples_is_shown(cli):
    outcome = cli(*TINY, "data.select={min_confidence: 0.5}", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    record = json.loads((outcome.folder / "selection.json").read_text())
    arms = json.loads((outcome.folder / "metrics.json").read_text())["arms"]
    assert set(arms) == {"teacher", "student alone", "student + kd, all samples", "student + kd"}
    remark = f"data.select kept {record['kept']} of {record['samples']} training samples"
    assert remark in " ".join(outcome.text.split())
    assert remark in (outcome.folder / "report.html").read_text()
    chosen = json.loads((outcome.folder / "kd" / "seed_0" / "arm.json").read_text())
    whole = json.loads((outcome.folder / "kd_all" / "seed_0" / "arm.json").read_text())
    assert chosen["identity"] != whole["identity"]


def test_a_language_model_is_judged_by_its_likelihood(cli):
    outcome = cli(
        "data=synthetic_text", "data.task=causal_lm", "data.source.samples=60", "metrics=language_model",
        "model@teacher=tiny_gpt", "model@student=tiny_gpt", "student.net.layers=1", "method=forward_kl",
        "trainer=smoke", "compare.latency=false", "optimizer=adamw",
    )  # fmt: skip
    assert outcome.code == 0, outcome.text
    record = json.loads((outcome.folder / "forward_kl" / "seed_0" / "arm.json").read_text())
    found = json.loads((outcome.folder / "metrics.json").read_text())["arms"]["student + forward_kl"]
    assert found["nll"]["mean"] == pytest.approx(record["whole"]["nll"])
    rows = load_file(outcome.folder / "forward_kl" / "seed_0" / "test.safetensors")
    nll = torch.nn.functional.cross_entropy(rows["logits"], rows["target"])
    assert record["whole"]["nll"] == pytest.approx(float(nll), rel=1e-4)
    assert "nats per token" in outcome.text
    evaluated = cli("job=evaluate", f"run={outcome.folder}")
    assert evaluated.code == 0, evaluated.text
    assert "perplexity" in evaluated.text


def reads_pieces(folder):
    """A classifier whose tokenizer is no tokenizer of bytes."""
    tokenizer = BPE(vocab_size=300).build(lambda: iter(["a pear and an apple", "old ships"] * 9), folder / "cache")
    tiny_bert(len(tokenizer), num_classes=2, layers=1, width=16, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_tokenizer_of_a_checkpoint_is_the_default(tmp_path, monkeypatch, caplog):
    """Texts in bytes went into pretrained nets, and nothing said so."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "kd_lightning")
    (tmp_path / "texts.csv").write_text("text,label\n" + "a pear,1\nold ships,0\n" * 20)
    folder, bytewise = reads_pieces(tmp_path / "pieces"), bert(tmp_path / "bytes")
    data = ["data=text_files", f"data.root={tmp_path}", "data.source.files=texts.csv", "model@student=tiny_bert"]
    hf = ["model@teacher=hf", f"teacher.net.name={folder}"]
    settled = settle(Command(composed(*data, *hf)))
    assert settled.data.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert settled.settings.student.net["vocab_size"] == 278
    assert f"that of the checkpoint {folder} (teacher)" in caplog.text
    check_tokenizer("teacher", settled.settings.teacher, settled.data)

    other = ["data.tokenizer._target_=kd_lightning.data.text.tokenizers.Pretrained", f"+data.tokenizer.name={bytewise}"]
    both = ["model@student=hf", f"student.net.name={bytewise}"]
    for chosen, name in ((other, "teacher"), (both, "student")):
        wrong = settle(Command(composed(*data, *chosen, *hf)))
        role = getattr(wrong.settings, name)
        with pytest.raises(ValueError, match=rf"data\.tokenizer has another vocabulary than the checkpoint.*{name}"):
            check_tokenizer(name, role, wrong.data)

    random = settle(Command(composed(*data, *hf, "teacher.net.pretrained=false")))
    assert random.settings.student.net["vocab_size"] == 260
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    settle(Command(composed(*data, *hf)))
    assert f"teacher.net.name={folder} holds no tokenizer: Bytes must be" in caplog.text
