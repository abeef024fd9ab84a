"""What a deployed student of texts reads is what it was trained on; rows of several texts come apart."""

import json

import pytest
import torch

from kd_lightning.data.text.module import TextDataModule
from kd_lightning.data.text.sources.synthetic import SyntheticText
from kd_lightning.data.text.texts import Texts
from kd_lightning.data.text.tokenizers import BPE, Bytes
from kd_lightning.deploy.export import save_tokenizer
from kd_lightning.deploy.formats.huggingface import describe
from kd_lightning.deploy.inputs import unpacked
from kd_lightning.deploy.texts import TextModel, TextReader
from kd_lightning.models.language.tiny import tiny_gpt
from tests.data.text.given import Given

NAMES = ("input_ids", "attention_mask")


def built(tmp_path, task, tokenizer=None, names=NAMES, source=None, **options):
    """A data module, and a reader of what an export of it holds."""
    source = source or SyntheticText(60, task=task, pairs=options.pop("pairs", False))
    data = TextDataModule(
        source, tokenizer or Bytes(), task=task, cache_dir=str(tmp_path / "cache"), **{"max_length": 40, **options}
    )
    data.save_tokenizer(tmp_path / "tokenizer")
    return data, TextReader(tmp_path / "tokenizer", {**data.preprocessing(), "names": names})


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(vocab_size=300)], ids=["bytes", "bpe"])
@pytest.mark.parametrize("task", ["classification", "regression", "token_classification", "embedding"])
def test_texts_are_read_as_in_training(tmp_path, task, tokenizer):
    data, reader = built(tmp_path, task, tokenizer)
    texts, position = data.texts("test"), 0
    for batch in data.loader("test", whole=True):
        count = len(batch["index"])
        read = reader(texts[position : position + count], words=task == "token_classification")
        position += count
        for name in NAMES:
            assert torch.equal(read.tensors[name], batch[name])
        if task == "token_classification":
            told = [(row != -100).nonzero()[:, 0].tolist() for row in batch["target"]]
            assert read.first == told
    assert position == len(texts)


def test_pairs_are_read_as_in_training(tmp_path):
    data, reader = built(tmp_path, "classification", pairs=True, names=(*NAMES, "token_type_ids"))
    batch = next(iter(data.loader("test", whole=True)))
    texts = [tuple(text.split("\t")) for text in data.texts("test")][: len(batch["index"])]
    read = reader(texts)
    assert batch["token_type_ids"].max() == 1
    for name in reader.names:
        assert torch.equal(read.tensors[name], batch[name])
    model = TextModel(lambda tensors: torch.eye(2), reader, data.preprocessing())
    assert [a["classes"][0]["class"] for a in model.answer(texts[:2])] == ["different", "same"]
    with pytest.raises(ValueError, match="compares two texts"):
        model.answer(["one text"])
    assert model.decode({"text": "a", "pair": "b"}) == ("a", "b")


@pytest.mark.parametrize("options", [{}, {"template": "Say {prompt}!\n"}, {"max_length": 16}])
def test_prompts_are_read_as_in_training(tmp_path, options):
    prompts, responses = ["a pear", "my old apple near a drum"], [" b", " c"]
    source = Given(responses * 10, prompt=prompts * 10)
    data, reader = built(tmp_path, "causal_lm", source=source, **options)
    seen = 0
    for batch in data.loader("train", whole=True):
        for row, length in zip(batch["input_ids"].tolist(), batch["prompt_length"].tolist(), strict=True):
            asked = [reader.prompt(prompt) for prompt in prompts]
            start = row[:length]
            # Where there is too little room, training has cut the beginning.
            assert any(start == p or (start[0] == p[0] and start[1:] == p[len(p) - length + 1 :]) for p in asked)
            seen += 1
    assert seen


def test_a_long_prompt_keeps_its_template(tmp_path):
    source = Given(["yes"] * 10, prompt=["ok?"] * 10)
    _, reader = built(tmp_path, "causal_lm", source=source, template="<s>[{prompt}]")
    assert reader.prompt("x" * 60 + "end") == [257, *b"[" + b"x" * 33 + b"end]"]
    assert reader.prompt("a") == [257, *b"[a]"]


def test_texts_joined_in_blocks_have_no_start(tmp_path):
    data, reader = built(tmp_path, "causal_lm", source=Given(["apple pear " * 30] * 8), blocks=True)
    assert reader.prompt("ab") == [97, 98]
    assert 257 not in next(iter(data.loader("train", whole=True)))["input_ids"]
    assert reader.prompt("") == [258]


def test_of_a_long_prompt_the_last_tokens_count(tmp_path):
    _, reader = built(tmp_path, "causal_lm")
    tensors = reader.padded([reader.prompt("x" * 60 + "end"), reader.prompt("a")])
    assert tensors["input_ids"][0].tolist() == [257, *b"x" * 36, *b"end"]
    assert tensors["attention_mask"].sum(1).tolist() == [40, 2]
    assert tensors["input_ids"][1, 2:].unique().tolist() == [reader.tokenizer.pad_token_id]


def test_large_outputs_are_made_in_parts(tmp_path, monkeypatch):
    data, reader = built(tmp_path, "masked_lm")
    sizes = []

    def run(tensors):
        sizes.append(len(tensors["input_ids"]))
        logits = torch.zeros(*tensors["input_ids"].shape, 260)
        logits[..., 65] = 9.0
        return logits

    monkeypatch.setattr("kd_lightning.deploy.texts.AT_ONCE", 2 * 40 * 260)
    answers = TextModel(run, reader, data.preprocessing(), top=2).answer(
        ["<mask>b", "c<mask>", "no", "<mask>", "<mask>"]
    )
    assert sizes == [2, 2, 1]
    assert [a["classes"][0]["class"] if "classes" in a else a["error"][:14] for a in answers] == [
        "A", "A", "There is no <m", "A", "A",
    ]  # fmt: skip


def test_packed_rows_come_apart_in_order(tmp_path):
    data, _ = built(tmp_path, "causal_lm", source=Given(["abc", "de", "f", "ghij"] * 10), packing=True, max_length=20)
    alone, _ = built(tmp_path, "causal_lm", source=Given(["abc", "de", "f", "ghij"] * 10), max_length=20)
    batch = next(iter(data.loader("train", whole=True)))
    apart = unpacked(batch)
    assert "segment_ids" not in apart
    assert len(apart["input_ids"]) > len(batch["input_ids"])
    assert torch.equal(apart["target"][apart["target"] != -100], batch["target"][batch["target"] != -100])
    texts = {tuple(row[row != 256].tolist()) for b in alone.loader("train", whole=True) for row in b["input_ids"]}
    for row, mask in zip(apart["input_ids"], apart["attention_mask"], strict=True):
        assert tuple(row[mask.bool()].tolist()) in texts
    assert unpacked({"input_ids": 1}) == {"input_ids": 1}


def test_texts_without_pairs_are_refused_as_pairs(tmp_path):
    data, reader = built(tmp_path, "classification", source=Given(["a", "b", "c"] * 8, label=["x", "y", "x"] * 8))
    assert isinstance(data.source.texts, Texts)
    with pytest.raises(ValueError, match="takes one text"):
        TextModel(lambda tensors: torch.zeros(1, 2), reader, data.preprocessing()).answer([("a", "b")])


def test_each_continuation_goes_on_from_its_own_last_token(tmp_path):
    data, reader = built(tmp_path, "causal_lm")

    def run(tensors):  # after a comes b, after b comes c; z ends the text
        following = torch.where(tensors["input_ids"] == ord("z"), 258, tensors["input_ids"] + 1)
        return torch.nn.functional.one_hot(following.clamp(max=259), 260).float()

    texts = ["a", "some more k", "xx", "." * 50 + "q"]
    answers = TextModel(run, reader, data.preprocessing(), new_tokens=4).answer(texts)
    assert [answer["continuation"] for answer in answers] == ["bcde", "lmno", "yz", "rstu"]


def test_stop_tokens_and_length_of_a_model_stay(tmp_path):
    data, _ = built(tmp_path, "causal_lm", max_length=16)
    for before, after in (([258, 65], [258, 65]), (None, 258), (7, 258), ([7, 9], 258)):
        net = tiny_gpt(260, layers=1, width=16, heads=2, max_length=96)
        net.generation_config.eos_token_id = before
        describe(net, (), data.tokenizer)
        assert net.generation_config.eos_token_id == after
    folders = {limit: tmp_path / f"{limit}" for limit in (96, 77)}
    for limit, folder in folders.items():
        if limit == 77:
            data.tokenizer.model_max_length = limit
        save_tokenizer(data, folder, net)
        assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == limit
