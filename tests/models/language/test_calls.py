"""TokenCall on every family: padding on either side, signals on demand, scores that are those of the net."""

from __future__ import annotations

import pytest
import torch

from kd_lightning.core.calls import TokenCall
from kd_lightning.core.language_net import positions
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.training.roles import check_packing
from tests.models.language.nets import DECODERS, ENCODERS, VOCABULARY, net, padded, texts

FAMILIES = [*ENCODERS, *DECODERS]


def task_of(family: str) -> str:
    return "masked_lm" if family in ENCODERS else "causal_lm"


def call(*names: str, **options) -> TokenCall:
    made = TokenCall(**options)
    made.listen(names)
    return made


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_either_side_changes_nothing(family, attention):
    lm, rows = net(family, task_of(family), attention), texts()
    alone = [TokenCall()(lm, padded([row]))["logits"][0] for row in rows]
    for side in ("left", "right"):
        batch = padded(rows, side, length=9)
        logits = TokenCall()(lm, batch)["logits"]
        assert logits.shape == (3, 9, VOCABULARY)
        for i, expected in enumerate(alone):
            real = logits[i][batch["attention_mask"][i].bool()]
            torch.testing.assert_close(real, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states(family):
    lm, batch = net(family, task_of(family)), padded(texts())
    found = call("hidden_states", "last_hidden_state", "sentence_embedding")(lm, batch)
    assert set(found) == {"hidden_states", "last_hidden_state", "sentence_embedding"}  # no logits
    assert len(found["hidden_states"]) == 3
    assert {s.shape for s in found["hidden_states"]} == {(3, 7, 16)} or family == "electra"
    last = found["last_hidden_state"]
    torch.testing.assert_close(found["hidden_states"][-1], last)
    torch.testing.assert_close(found["sentence_embedding"][1], last[1, :4].mean(0))
    together = call("logits", "last_hidden_state")(lm, batch)
    torch.testing.assert_close(together["last_hidden_state"], last)
    torch.testing.assert_close(together["logits"], TokenCall()(lm, batch)["logits"])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_net(family):
    """Their softmax is the attention that the net itself reports."""
    lm, batch = net(family, task_of(family)), padded(texts(), "left")
    found = call("attentions", "queries", "keys", "values")(lm, batch)
    assert len(found["attentions"]) == len(found["queries"]) == len(found["values"]) == 2
    assert found["queries"][0].shape == (3, 7, 16)
    arguments = {**TokenCall().arguments(batch), "position_ids": positions(batch["attention_mask"])}
    if family == "roberta":
        del arguments["position_ids"]  # counts itself
    reported = lm(**arguments, output_attentions=True).attentions
    valid = batch["attention_mask"].bool()
    for scores, expected in zip(found["attentions"], reported, strict=True):
        assert scores.shape == (3, 4, 7, 7)
        for i in range(3):  # rows of padding attend to anything
            got = scores[i][:, valid[i]].softmax(-1)
            torch.testing.assert_close(got, expected[i][:, valid[i]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "value"), [("bert", "bert.encoder.layer.1.attention.self.value"), ("gpt2", None)])
def test_values_and_gradient(family, value):
    lm, batch = net(family, task_of(family), "sdpa"), padded(texts())
    role = Role("student", lm, TokenCall())
    references = [Reference.parse("student.values[-1]")] + ([Reference.parse(f"student.{value}")] if value else [])
    role.listen(references)
    signals = role(batch)
    assert set(signals) == {"values", value} - {None}
    last = role.pick(references[0], signals)
    if value:
        assert torch.equal(last, signals[value])
    else:
        fused = lm.transformer.h[1].attn.c_attn
        expected = fused(lm.transformer.h[1].ln_1(call("hidden_states")(lm, batch)["hidden_states"][1]))
        torch.testing.assert_close(last, expected[..., 32:])
    last.sum().backward()
    assert any(p.grad is not None for p in lm.parameters())


def test_without_logits_the_head_does_not_run():
    lm, batch = net("gpt2", "causal_lm"), padded(texts())
    ran = []
    lm.lm_head.register_forward_hook(lambda *_: ran.append(1))
    role = Role("student", lm, TokenCall(), anatomy(lm).aliases())
    last, head = Reference.parse("student.last_hidden_state"), Reference.parse("student.head!module")
    role.listen([last, head], [Reference.parse("student.logits")])
    signals = role(batch)
    assert not ran
    assert set(signals) == {"last_hidden_state"}
    logits = role.pick(head, signals)(signals["last_hidden_state"])
    with role.evaluating():
        assert torch.equal(role(batch)["logits"], logits)
    ran.clear()
    assert "logits" not in role(batch)  # back to training
    assert not ran
    role.listen([last, Reference.parse("student.lm_head:in")])  # a tap of the head needs it to run
    signals = role(batch)
    assert torch.equal(signals["lm_head:in"], signals["last_hidden_state"])


def test_hooks_are_silent_while_generating():
    lm, batch = net("gpt2", "causal_lm"), padded(texts(), "left")
    role = Role("student", lm, TokenCall())
    tap = "student.transformer.h.0"
    role.listen([Reference.parse("student.attentions"), Reference.parse(tap)])
    with role.paused():
        lm.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3, do_sample=False)
    signals = role(batch)  # a tap that had fired twice would be refused
    assert len(signals["attentions"]) == 2
    lm.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3, do_sample=False)
    with pytest.raises(ValueError, match="more than once"):
        role(batch)


def test_lists_are_indexed_and_detached():
    lm, batch = net("bert", "masked_lm"), padded(texts())
    role = Role("student", lm, TokenCall())
    wanted = {text: Reference.parse(f"student.{text}") for text in ("hidden_states[0]", "hidden_states!detach")}
    role.listen(wanted.values())
    signals = role(batch)
    assert torch.equal(role.pick(wanted["hidden_states[0]"], signals), signals["hidden_states"][0])
    assert not any(s.requires_grad for s in role.pick(wanted["hidden_states!detach"], signals))
    with pytest.raises(ValueError, match="has 3 of 'hidden_states'"):
        role.pick(Reference.parse("student.hidden_states[3]"), signals)
    with pytest.raises(ValueError, match="one tensor, not a list"):
        role.pick(Reference.parse("student.logits[0]"), TokenCall()(lm, batch))


@torch.no_grad()
def test_vocabularies_of_different_size():
    lm, batch = net("gpt2", "causal_lm"), padded(texts())
    logits = TokenCall()(lm, batch)["logits"]
    wider = TokenCall(vocab_size=VOCABULARY + 3)(lm, batch)["logits"]
    assert torch.equal(wider[..., :VOCABULARY], logits)
    assert wider[..., VOCABULARY:].isneginf().all()
    assert torch.equal(TokenCall(vocab_size=VOCABULARY - 3)(lm, batch)["logits"], logits[..., :-3])


@torch.no_grad()
def test_a_tokenizer_of_its_own():
    lm, batch = net("gpt2", "causal_lm"), padded(texts())
    both = {**padded(texts((3, 2))), **{f"teacher_{key}": value for key, value in batch.items()}}
    made = TokenCall(prefix="teacher_")
    assert made.arguments(both).keys() == batch.keys()
    assert torch.equal(made(lm, both)["logits"], TokenCall()(lm, batch)["logits"])
    with pytest.raises(ValueError, match="no teacher_input_ids"):
        made(lm, batch)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "mistral", "gemma2", "llama4"])
def test_packed_texts_do_not_see_each_other(family, attention):
    if family == "gemma2":  # has no sdpa
        attention = "eager"
    lm, rows = net(family, task_of(family), attention), texts()
    packed = {
        "input_ids": torch.cat([*rows, torch.ones(2, dtype=torch.int64)])[None],
        "attention_mask": torch.tensor([[1] * 16 + [0] * 2]),
        "segment_ids": torch.tensor([[0] * 7 + [1] * 4 + [2] * 5 + [3] * 2]),
    }
    logits = call("logits")(lm, packed)["logits"][0]
    assert logits.isfinite().all()
    alone = torch.cat([call("logits")(lm, padded([row]))["logits"][0] for row in rows])
    torch.testing.assert_close(logits[:16], alone, rtol=1e-4, atol=1e-5)


def test_nets_that_mix_the_texts_of_a_row_are_refused():
    """What a recurrent layer has read of one text reaches the next, whatever the mask says."""
    rows = texts((7, 5))
    packed = {
        "input_ids": torch.cat(rows)[None],
        "attention_mask": torch.ones(1, 12, dtype=torch.int64),
        "segment_ids": torch.tensor([[1] * 7 + [2] * 5]),
    }
    for family in ("llama", "mistral", "gemma2"):
        check_packing(Role("student", net(family, "causal_lm"), TokenCall()), packed)
    for family in ("recurrent_gemma", "qwen3_next"):
        role = Role("student", net(family, "causal_lm"), TokenCall())
        with pytest.raises(ValueError, match=r"texts of a row apart.*data\.packing=false"):
            check_packing(role, packed)
        check_packing(role, padded(rows))


def test_packing_is_refused_where_positions_are_counted_by_the_net():
    batch = padded(texts())
    with pytest.raises(ValueError, match="packed"):
        TokenCall()(net("roberta", "masked_lm"), {**batch, "segment_ids": torch.zeros_like(batch["input_ids"])})


def test_base_models_give_embeddings():
    found = TokenCall()(net("bert", "embedding"), padded(texts()))
    assert found["sentence_embedding"].shape == (3, 16)
    with pytest.raises(ValueError, match="gives no logits"):
        call("logits")(net("bert", "embedding"), padded(texts()))


def test_unknown_attention_is_refused():
    from kd_lightning.models.language.bilstm import BiLSTM

    lstm = BiLSTM(VOCABULARY, 3)
    with pytest.raises(ValueError, match="are not known"):
        call("queries")(lstm, padded(texts()))
    with pytest.raises(ValueError, match="gives no hidden_states"):
        call("hidden_states")(lstm, padded(texts()))


@torch.no_grad()
def test_autocast_keeps_the_signals():
    lm, batch = net("bert", "masked_lm", "sdpa"), padded(texts(), "left")
    with torch.autocast("cpu", torch.bfloat16):
        found = call("logits", "attentions", "hidden_states")(lm, batch)
    assert found["logits"].isfinite().all()
    assert found["attentions"][0].min() <= -100
