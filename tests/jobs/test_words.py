"""Plausible mistakes end in one sentence that says what to change, never in a trace or behind Hydra's own words."""

import json

import pytest

from tests.conftest import TINY

TRAIN = [*TINY, "job=train", "method=kd", "teacher.fit=null", "trainer.max_epochs=1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits_resnet"], "Did you mean +experiment=digits_resnet?"),
        (["seeds=0"], "seeds is a list: write seeds=[0]."),
        (["method.terms.kd.inputs=[student.logits]"], "set one of them: method.terms.kd.inputs.<key>=..."),
        (["trainer.devices=many"], "Lightning does not take what is set under trainer"),
        (["model@student=hf"], "student.net.name must be given"),
        (["model@student=bilstm"], "${data.vocab_size}, which this data has not: models of texts"),
        (["model@student=mlp", "student.net.hidden=8"], "cannot be made of these arguments: TypeError"),
        (["method.terms.kd.inputs.teacher=teacher.layer1"], "The term 'kd' (KDLoss): Student logits (8, 3) and"),
    ],
)
def test_one_sentence(cli, arguments, words):
    outcome = cli(*TRAIN, *arguments)
    assert outcome.code == 1
    assert words in outcome.text
    assert "Traceback" not in outcome.text
    assert "Error executing job with overrides" not in outcome.text


def test_a_failed_run_is_marked_as_failed_and_only_one_sweep_says_which(cli):
    outcome = cli(*TRAIN, "student.checkpoint=nowhere.pt")
    assert json.loads((outcome.folder / "status.json").read_text())["state"] == "failed"
    swept = cli("-m", *TRAIN, "student.checkpoint=nowhere.pt")
    assert (swept.code, "no such file or run folder" in swept.text) == (1, True)
    assert "Error executing job with overrides" in swept.text


def test_a_fault_of_the_program_keeps_its_trace(cli, monkeypatch):
    def broken(command, folder):
        raise TypeError("a fault of ours")

    monkeypatch.setattr("kd_lightning.jobs.methods.run", broken)
    with pytest.raises(TypeError, match="a fault of ours"):
        cli("job=methods")


def test_names_with_umlauts_and_apostrophes_are_looked_for(cli):
    outcome = cli("job=train", "method=ce", "data=tensors", "data.root=Bücher/it's (1)")
    assert outcome.code == 1
    assert "Bücher/it's (1)" in outcome.text


def test_half_precision_and_oblong_pictures(cli):
    outcome = cli(*TRAIN, "method=simkd", "trainer.precision=bf16-true", "data.image_size=[8,16]")
    assert outcome.code == 0, outcome.text


def test_a_net_that_answers_with_a_dictionary_is_trained_and_exported(cli):
    odd = "student.net._target_=tests.models.odd.Mapped"
    outcome = cli(*TRAIN, odd)
    assert outcome.code == 0, outcome.text
    exported = cli("job=export", "trust=[tests]", f"run={outcome.folder}", "export.formats=[torch_export]")
    assert exported.code == 0, exported.text
    figures = json.loads((outcome.folder / "export" / "export.json").read_text())["formats"]["torch_export"]
    assert figures["difference"] < 1e-5
