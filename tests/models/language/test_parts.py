"""Places to tap in language models, and files of nets with tied weights."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from kd_lightning.core.calls import TokenCall
from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.models.anatomy.find import anatomy
from kd_lightning.models.language.bilstm import BiLSTM
from kd_lightning.models.language.tiny import tiny_gpt
from kd_lightning.models.registry import load_state, load_weights, savable_state
from tests.models.language.nets import DECODERS, ENCODERS, VOCABULARY, net, padded, texts


@torch.no_grad()
@pytest.mark.parametrize("task", ["lm", "classification", "embedding"])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_places(family, task):
    """Layers are the hidden states, the head makes the logits of the embedding; strict taps see each fire once."""
    lm = {"lm": "causal_lm" if family in DECODERS else "masked_lm"}.get(task, task)
    role = Role("student", net(family, lm), TokenCall(), anatomy(net(family, lm)).aliases(), trainable=False)
    names = ["stem", "stages", "hidden_states"] + ([] if task == "embedding" else ["embedding", "logits"])
    wanted = {name: Reference.parse(f"student.{name}") for name in names}
    role.listen(wanted.values())
    batch = padded(texts())
    signals = role(batch)
    found = {name: role.pick(reference, signals) for name, reference in wanted.items()}
    assert [stage.shape for stage in found["stages"]] == [(3, 7, 16)] * 2
    torch.testing.assert_close(found["stages"][0], found["hidden_states"][1])
    assert found["stem"].shape[:2] == (3, 7)
    if task == "embedding":
        return
    per_text = task == "classification" and family in ENCODERS
    assert found["embedding"].shape[:-1] == ((3,) if per_text else (3, 7))
    logits = role.pick(Reference.parse("student.head!module"), signals)(found["embedding"])
    if logits.dim() == 3 and found["logits"].dim() == 2:  # decoders classify by the last token
        logits = logits[torch.arange(3), batch["attention_mask"].sum(1) - 1]
    torch.testing.assert_close(logits, found["logits"])


@torch.no_grad()
def test_places_of_the_bilstm():
    lstm = BiLSTM(VOCABULARY, 3)
    role = Role("student", lstm, TokenCall(), anatomy(lstm).aliases())
    role.listen([Reference.parse("student.embedding"), Reference.parse("student.logits")])
    signals = role(padded(texts()))
    torch.testing.assert_close(lstm.head(signals["head:in"]), signals["logits"])


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt"])
def test_tied_weights_are_saved_once_and_stay_tied(family, tmp_path):
    lm = net(family, "causal_lm" if family in DECODERS else "masked_lm")
    path = tmp_path / "student.safetensors"
    state = savable_state(lm)
    assert len(state) < len(lm.state_dict())
    save_file(state, path)  # refuses tensors that share memory
    apart = {name: value.clone() for name, value in lm.state_dict().items()}
    assert savable_state(lm, apart).keys() == state.keys()
    for read in (lambda fresh: load_state(fresh, load_file(path)), lambda fresh: load_weights(fresh, path)):
        fresh = copy.deepcopy(lm)
        for parameter in fresh.parameters():
            torch.nn.init.zeros_(parameter)
        read(fresh)
        assert fresh.get_input_embeddings().weight is fresh.get_output_embeddings().weight
        assert all(torch.equal(value, apart[name]) for name, value in fresh.state_dict().items())


def test_states_of_other_nets_are_refused():
    small, large = (tiny_gpt(VOCABULARY, layers=n, width=16) for n in (1, 2))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_state(large, savable_state(small))
