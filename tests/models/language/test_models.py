"""Language models from configuration, from folders, from a teacher's layers."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import Role
from kd_lightning.core.calls import TokenCall
from kd_lightning.models.language.bilstm import BiLSTM
from kd_lightning.models.language.hf import hf
from kd_lightning.models.language.lora import has_lora, merge_lora
from kd_lightning.models.language.tiny import tiny_bert, tiny_gpt
from kd_lightning.training.nets import build_net
from tests.models.language.nets import PAD, VOCABULARY, padded, texts

SHAPES = {"classification": (3, 5), "regression": (3, 1), "token_classification": (3, 7, 5)}
LM = (3, 7, VOCABULARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with three layers and a head of two classes, as save_pretrained writes it."""
    path = tmp_path_factory.mktemp("bert")
    bert = tiny_bert(VOCABULARY, num_classes=2, layers=3, width=16, pad_token_id=PAD)
    bert.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def gpt_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt")
    tiny_gpt(VOCABULARY, layers=3, width=16, pad_token_id=PAD).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("name", "task", "shape"),
    [
        *[("tiny_bert", task, shape) for task, shape in {**SHAPES, "masked_lm": LM}.items()],
        *[("tiny_gpt", task, shape) for task, shape in {**SHAPES, "causal_lm": LM}.items()],
        ("bilstm", "classification", (3, 5)),
        ("bilstm", "regression", (3, 1)),
    ],
)
def test_configurations(name, task, shape):
    role = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
    data = {"vocab_size": VOCABULARY, "task": task, "num_classes": 5, "max_length": 16, "pad_token_id": PAD}
    root = OmegaConf.create({"data": data, "student": role})
    assert root.student.name == name
    torch.manual_seed(0)
    model, call = instantiate(root.student.net), instantiate(root.student.call)
    logits = call(model, padded(texts()))["logits"]
    assert logits.shape == shape
    logits.square().mean().backward()
    assert [path for path, p in model.named_parameters() if p.grad is None] == []


def test_embedding_models_have_nothing_that_does_not_learn():
    for model in (tiny_bert(VOCABULARY, "embedding", width=16), tiny_gpt(VOCABULARY, "embedding", width=16)):
        TokenCall()(model, padded(texts()))["sentence_embedding"].sum().backward()
        assert [path for path, p in model.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_gpt_classifies_by_its_last_valid_token():
    model = tiny_gpt(VOCABULARY, "classification", 5, width=16, pad_token_id=PAD).eval()
    rows = texts()
    expected = torch.cat([TokenCall()(model, padded([row]))["logits"] for row in rows])
    for side in ("left", "right"):
        torch.testing.assert_close(TokenCall()(model, padded(rows, side, 9))["logits"], expected)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_bilstm_does_not_see_padding(pooling):
    lstm = BiLSTM(VOCABULARY, 5, layers=2, pooling=pooling, width=8, hidden=8).eval()
    rows = texts()
    expected = torch.cat([lstm(row[None]).logits for row in rows])
    for side in ("left", "right"):
        batch = padded(rows, side, 9)
        found = lstm(**batch)
        torch.testing.assert_close(found.logits, expected)
        assert not found.last_hidden_state[batch["attention_mask"] == 0].any()
    reference = torch.nn.LSTM(128, 8, 2, batch_first=True, bidirectional=True)
    for layer in range(2):
        for side, suffix in ((lstm.ahead, ""), (lstm.back, "_reverse")):
            for key, value in side[layer].named_parameters():
                getattr(reference, key.replace("_l0", f"_l{layer}") + suffix).copy_(value)
    states = reference(lstm.embedding(rows[0][None]))[0]
    torch.testing.assert_close(lstm(rows[0][None]).last_hidden_state, states)


def test_hf_from_a_folder(folder):
    model = hf(str(folder), num_classes=2)
    state = transformers.BertForSequenceClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    other = hf(str(folder), num_classes=7, config={"hidden_dropout_prob": 0.0})
    assert TokenCall()(other, padded(texts()))["logits"].shape == (3, 7)
    assert torch.equal(other.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)
    fresh = hf(str(folder), num_classes=2, pretrained=False)
    assert not torch.equal(fresh.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("chosen", [[0, 2], [-1]])
def test_hf_keeps_layers(folder, gpt_folder, chosen, tmp_path):
    encoder, decoder = (folder, "classification", "bert.encoder.layer"), (gpt_folder, "causal_lm", "transformer.h")
    for path, task, stack in (encoder, decoder):
        whole = hf(str(path), task=task, num_classes=2).eval()
        student = hf(str(path), task=task, num_classes=2, layers=chosen).eval()
        assert student.config.num_hidden_layers == len(chosen)
        for place, layer in enumerate(chosen):
            ours = student.get_submodule(stack)[place].state_dict()
            theirs = whole.get_submodule(stack)[layer].state_dict()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        batch = padded(texts(), "left")
        logits = TokenCall()(student, batch)["logits"]
        student.save_pretrained(tmp_path / task)
        loaded = hf(str(tmp_path / task), task=task, num_classes=2).eval()
        torch.testing.assert_close(TokenCall()(loaded, batch)["logits"], logits)
    # The cache of keys and values knows the new places.
    rows = batch["input_ids"], batch["attention_mask"]
    with_cache, without = (
        student.generate(rows[0], attention_mask=rows[1], max_new_tokens=3, do_sample=False, use_cache=use)
        for use in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_hf_says_what_is_wrong(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder"):
        hf("no-such-organisation/no-such-model", task="embedding")
    with pytest.raises(FileNotFoundError, match="no folder"):
        hf(str(tmp_path / "nothing"), num_classes=2)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hf(str(tmp_path), num_classes=2)
    for options, message in (
        ({"task": "clasification"}, "Did you mean classification"),
        ({"num_classes": None}, "needs num_classes"),
        ({"layers": [0, 3]}, "from 0 to 2"),
        ({"layers": [1, -2]}, "different layers"),
        ({"config": {"dropuot": 0}}, "no field 'dropuot'"),
        ({"quantise": "int3"}, "int8 or nf4"),
        ({"dtype": "half"}, "dtype=half"),
    ):
        with pytest.raises(ValueError, match=message):
            hf(str(folder), **{"num_classes": 2, **options})
    with pytest.raises(ValueError, match="heads=3 must divide"):
        tiny_bert(VOCABULARY, num_classes=2, heads=3)


def test_gradient_checkpointing_gives_the_same_gradients(folder):
    gradients = []
    for checkpointing in (False, True):
        model = hf(str(folder), num_classes=2, gradient_checkpointing=checkpointing).eval()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for layer in model.bert.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        call = TokenCall()
        call.listen(["hidden_states", "attentions"])
        found = call(model, padded(texts()))
        (found["hidden_states"][1].sum() + found["attentions"][-1].square().sum()).backward()
        gradients.append(model.bert.encoder.layer[0].attention.self.query.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("decoder", [False, True])
def test_lora(folder, gpt_folder, decoder):
    path, options = (gpt_folder, {"task": "causal_lm"}) if decoder else (folder, {"num_classes": 2})
    model = hf(str(path), lora={"r": 2, "alpha": 4}, gradient_checkpointing=True, **options)
    assert type(model) is type(hf(str(path), **options))
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("classifier.") for name in learns)
    assert any("lora_" in name for name in learns)
    assert any(name.startswith("classifier.") for name in learns) is not decoder
    batch = padded(texts())
    call = TokenCall()
    call.listen(["logits", "queries"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        call(model, batch)["logits"].square().sum().backward()
        optimizer.step()
    model.eval()
    before = call(model, batch)
    merged = merge_lora(copy.deepcopy(model))
    assert not has_lora(merged)
    assert has_lora(model)
    plain = hf(str(path), **options)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert not torch.allclose(TokenCall()(plain.eval(), batch)["logits"], before["logits"], atol=1e-3)
    after = TokenCall()(merged, batch)["logits"]
    torch.testing.assert_close(after, before["logits"], rtol=1e-4, atol=1e-5)


def test_int8_teacher(folder):
    plain, small = hf(str(folder), num_classes=2).eval(), hf(str(folder), num_classes=2, quantise="int8").eval()
    assert not any(p.requires_grad for p in small.parameters())
    batch = padded(texts())
    call = TokenCall()
    call.listen(["logits", "hidden_states", "values"])
    with torch.no_grad():
        expected, got = TokenCall()(plain, batch)["logits"], call(small, batch)
    assert not torch.equal(got["logits"], expected)
    torch.testing.assert_close(got["logits"], expected, rtol=0.05, atol=0.02)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="quantise=int8"):
            hf(str(folder), num_classes=2, quantise="nf4")


def test_only_a_head_that_is_asked_for_is_new(folder, gpt_folder, caplog):
    """A field that changes shapes replaced what was learnt by random numbers, without a word."""
    caplog.set_level("INFO", "kd_lightning")
    for task, path, where in (
        ("classification", folder, "bert.embeddings"),
        ("causal_lm", gpt_folder, "transformer.wte"),
    ):
        with pytest.raises(ValueError, match=rf"{where}.*became \(50, 16\).*vocab_size"):
            hf(str(path), task=task, num_classes=2, config={"vocab_size": 50})
    with pytest.raises(ValueError, match=r"new would be .*layer\.3.*net\.layers"):
        hf(str(folder), num_classes=2, config={"num_hidden_layers": 4})
    for task in ("classification", "embedding"):
        with pytest.raises(ValueError, match=r"left out would be .*layer\.2.*net\.layers"):
            hf(str(folder), task=task, num_classes=2, config={"num_hidden_layers": 2})
    assert not caplog.messages
    hf(str(folder), num_classes=2)
    hf(str(gpt_folder), task="causal_lm")
    hf(str(folder), task="embedding")
    assert not caplog.messages
    hf(str(folder), num_classes=7)
    hf(str(gpt_folder), task="classification", num_classes=2)
    assert ["classifier.bias, classifier.weight" in caplog.messages[0], "score.weight" in caplog.messages[1]] == [
        True
    ] * 2
    assert hf(str(folder), num_classes=2, pretrained=False, config={"vocab_size": 50}).config.vocab_size == 50


def test_a_frozen_net_keeps_the_type_of_its_checkpoint(gpt_folder, tmp_path):
    half = hf(str(gpt_folder), task="causal_lm").to(torch.bfloat16)
    half.save_pretrained(tmp_path)

    def role(**options):
        net = {"_target_": "kd_lightning.models.language.hf.hf", "name": str(tmp_path), "task": "causal_lm", **options}
        return Role(name="gpt", net=net)

    types = [
        next(build_net(*arguments, frozen=frozen).parameters()).dtype
        for arguments, frozen in (
            ((role(), 0), True),
            ((role(), 0), False),
            ((role(dtype="float32"), 0), True),
            ((role(dtype="bfloat16"), 0), False),
            ((replace(role(), checkpoint=str(gpt_folder / "model.safetensors")), 0), True),
        )
    ]
    half, full = torch.bfloat16, torch.float32
    assert types == [half, full, full, half, full]
