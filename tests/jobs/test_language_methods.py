"""Language models through the command line: two tokenizers, adapters, a quantised teacher, padded vocabularies."""

import csv
import json
import math
import re

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning import load_run
from tests.jobs import checkpoints

COMMON = ["data=synthetic_text", "data.source.samples=80", "trainer=smoke", "compare.latency=false", "optimizer.lr=0.5"]
GPT = [*COMMON, "data.task=causal_lm", "metrics=language_model", "model@teacher=tiny_gpt", "model@student=tiny_gpt",
       "teacher.net.width=32", "student.net.width=16", "student.net.layers=1"]  # fmt: skip
BPE = "data.teacher_tokenizer={_target_: kd_lightning.data.text.tokenizers.BPE, vocab_size: 300}"
PREFIX, WIDTH = "teacher.call.prefix=teacher_", "teacher.net.vocab_size=${data.teacher_vocab_size}"


@pytest.mark.parametrize("method", ["uld", "span_alignment"])
def test_a_teacher_with_its_own_tokenizer(cli, tmp_path, method):
    outcome = cli(*GPT, BPE, PREFIX, WIDTH, f"method={method}", "export.formats=[]")
    assert outcome.code == 0, outcome.text
    # The teacher learnt its own tokens, 300 of them, the student those of the data.
    (teacher,) = (tmp_path / "outputs/teachers").glob("tiny_gpt-*")
    own, ours = load_file(teacher / "test.safetensors"), load_file(outcome.folder / method / "seed_0/test.safetensors")
    assert own["logits"].shape[1] == 300
    assert ours["logits"].shape[1] == 260
    # All texts fit, and bytes are characters: the teacher's nats per token turn into nats per character.
    record = json.loads((teacher / "arm.json").read_text())
    per_character = record["whole"]["nll"] * len(own["target"]) / len(ours["target"])
    said = re.search(r"nats per character: tiny_gpt \(teacher\) ([\d.]+)", " ".join(outcome.text.split()))
    assert float(said[1]) == pytest.approx(per_character, abs=6e-4)
    arms = json.loads((outcome.folder / "metrics.json").read_text())["arms"]
    assert set(arms) == {"student alone", f"student + {method}"}
    log = (outcome.folder / method / "seed_0/logs/version_0/metrics.csv").read_text()
    values = [float(row[f"train/{method}"]) for row in csv.DictReader(log.splitlines()) if row.get(f"train/{method}")]
    assert values
    assert all(0 < value < math.inf for value in values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([BPE], "teacher.call.prefix=teacher_"),
        ([BPE, PREFIX, WIDTH, "method=gkd"], "generates text in the student's tokens"),
        ([BPE, PREFIX], "Set teacher.net.vocab_size=${data.teacher_vocab_size}"),
    ],
)
def test_what_two_tokenizers_need_is_said(cli, arguments, message):
    outcome = cli(*GPT, "method=uld", *arguments, "job=train", "teacher.fit=null")
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text


def test_adapters_and_an_int8_teacher(cli, tmp_path):
    folder = checkpoints.bert(tmp_path / "bert")
    nets = [f"{role}.net.name={folder}" for role in ("teacher", "student")]
    outcome = cli(*COMMON, "metrics=text_classification", "model@teacher=hf", "model@student=hf", *nets,
                  "teacher.fit=null", "teacher.net.quantise=int8", "student.net.layers=[0,2]",
                  "student.net.lora={r: 4, alpha: 64}", "method=kd", "export.formats=[onnx,huggingface]")  # fmt: skip
    assert outcome.code == 0, outcome.text
    assert outcome.folder.parent.name == "synthetic_text_bert"  # not the whole path of the checkpoint
    loaded = load_run(outcome.folder)
    state = loaded.net.state_dict()
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in state.items())
    # The base is that of the checkpoint; only adapters and the head have learnt.
    before = load_file(folder / "model.safetensors")["bert.encoder.layer.2.attention.self.query.weight"]
    assert torch.equal(state["bert.encoder.layer.1.attention.self.query.base_layer.weight"], before)

    export = outcome.folder / "export"
    merged = load_file(export / "huggingface/model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in merged)
    assert not torch.equal(merged["bert.encoder.layer.1.attention.self.query.weight"], before)
    inputs = AutoTokenizer.from_pretrained(export / "huggingface")(
        ["old ships", "tin"], padding=True, return_tensors="pt"
    )
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    net = AutoModelForSequenceClassification.from_pretrained(export / "huggingface")
    with torch.no_grad():
        expected = loaded.net(**inputs).logits
        torch.testing.assert_close(net.eval()(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    session = onnxruntime.InferenceSession(export / "student.onnx")
    (answer,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    torch.testing.assert_close(torch.from_numpy(answer), expected, atol=1e-5, rtol=1e-5)
    # What is counted is what is shipped.
    parameters = json.loads((export / "export.json").read_text())["parameters"]
    assert parameters == sum(p.numel() for p in net.parameters())


def test_padded_vocabularies(cli, tmp_path):
    wide = ["teacher.net.vocab_size=320", "student.net.vocab_size=272"]
    cut = [f"{role}.call.vocab_size=${{data.vocab_size}}" for role in ("teacher", "student")]
    outcome = cli(*GPT, *wide, *cut, "method=kd", "export.formats=[onnx,huggingface]")
    assert outcome.code == 0, outcome.text
    loaded = load_run(outcome.folder)
    assert loaded.net.lm_head.weight.shape[0] == 272
    assert load_file(outcome.folder / "kd/seed_0/test.safetensors")["logits"].shape[1] == 260
    # What is shipped has no rows of padding, which a generation could fall into.
    net = AutoModelForCausalLM.from_pretrained(outcome.folder / "export/huggingface").eval()
    assert net.lm_head.weight.shape[0] == net.config.vocab_size == 260
    inputs = {"input_ids": torch.tensor([[257, 97, 98]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    session = onnxruntime.InferenceSession(outcome.folder / "export/student.onnx")
    (answer,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert answer.shape == (1, 3, 260)
    with torch.no_grad():
        torch.testing.assert_close(net(**inputs).logits, torch.from_numpy(answer), atol=1e-5, rtol=1e-5)
