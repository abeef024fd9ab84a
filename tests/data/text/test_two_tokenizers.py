"""Texts in the tokens of two tokenizers."""

import logging

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from kd_lightning.data.text import teacher_tokens
from kd_lightning.data.text.tokenizers import BPE, Bytes
from tests.data.text.given import Given, module

START, END, PAD = 257, 258, 256
LINES = [f"The brown fox no. {i} jumped over the dog, naïvely – {'again ' * (i % 9)}and again. 😀" for i in range(60)]


def two(texts, tmp_path, **kwargs):
    options = {"task": "causal_lm", "max_length": 100, "teacher_tokenizer": BPE(vocab_size=340), **kwargs}
    data = module(texts, tmp_path, **options)
    data.prepare()
    return data


def read(data, split="train"):
    """Of every row, of both sides: tokens that are read, those that are predicted, and where they end."""
    for batch in data.loader(split, whole=True):
        for row, index in enumerate(batch["index"].tolist()):
            sides = []
            for prefix in ("", "teacher_"):
                mask = batch[f"{prefix}loss_mask"][row]
                target = batch[f"{prefix}target"][row]
                assert torch.equal(mask, target != -100)
                tokens = batch[f"{prefix}input_ids"][row][batch[f"{prefix}attention_mask"][row].bool()]
                sides.append(
                    (tokens.tolist(), target[mask].tolist(), batch[f"{prefix}target_ends"][row][mask].tolist())
                )
            yield index, *sides


def check_ends(tokenizer, targets, ends, text):
    """Every token that is predicted ends where it says; the end token stands for one character."""
    for count, end in enumerate(ends, 1):
        said = tokenizer.decode(targets[:count])
        if "\ufffd" not in said:
            assert said.replace(tokenizer.eos_token, "\0") == text[:end]


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts(tmp_path, side):
    data = two(LINES, tmp_path, padding_side=side)
    teacher = data.teacher.tokenizer
    assert data.facts["teacher_vocab_size"] == len(teacher) > 300
    assert data.facts["teacher_pad_token_id"] == teacher.pad_token_id
    assert data.facts["teacher_max_length"] == data.facts["max_length"] == 100
    cut = 0
    for index, (ours, targets, ends), (theirs, teacher_targets, teacher_ends) in read(data):
        text = data.texts("train")[index] + "\0"
        assert ours == [START, *targets]
        assert theirs == [teacher.bos_token_id, *teacher_targets]
        assert len(ours) <= 100
        assert ends[-1] == teacher_ends[-1]
        check_ends(data.tokenizer, targets, ends, text)
        check_ends(teacher, teacher_targets, teacher_ends, text)
        if ends[-1] < len(text):
            cut += 1
            assert END not in targets
            assert teacher.eos_token_id not in teacher_targets
            # No more of the text would have fit: the teacher's next token has too many bytes.
            after = teacher.encode(text[ends[-1] : -1], add_special_tokens=False)[:2]
            assert len(ours) + max(1, len(teacher.decode(after).encode())) > 100
    assert 0 < cut < 42


def test_blocks_hold_every_text_once(tmp_path):
    data = two(LINES, tmp_path, blocks=True, max_length=50, teacher_max_length=20)
    teacher = data.teacher.tokenizer
    ours, theirs = [], []
    for _, (tokens, targets, ends), (others, teacher_targets, teacher_ends) in read(data):
        assert tokens[0] == START
        assert len(tokens) <= 50
        assert len(others) <= 20
        text = data.tokenizer.decode(targets).replace("</s>", "\0")
        assert ends[-1] == teacher_ends[-1] == len(text)
        check_ends(data.tokenizer, targets, ends, text)
        check_ends(teacher, teacher_targets, teacher_ends, text)
        ours += targets
        theirs += teacher_targets
    whole = data.tokenizer.decode(ours)
    assert whole == teacher.decode(theirs)
    assert sorted(whole.split("</s>")[:-1]) == sorted(set(LINES) & set(whole.split("</s>")))
    assert len(whole.split("</s>")) == 43
    assert data.num_samples == len(data.split.train)


def test_prompts(tmp_path):
    source = Given([line[:60] for line in LINES], prompt=[f"What did fox {i} do? " * 3 for i in range(60)])
    data = two(source, tmp_path, max_length=100, template="Q: {prompt} A: ")
    teacher = data.teacher.tokenizer
    for index, (ours, targets, ends), (theirs, teacher_targets, teacher_ends) in read(data):
        prompt, text = data.texts("train")[index].split("\t")
        assert ends[-1] == teacher_ends[-1]
        check_ends(data.tokenizer, targets, ends, f"{text}\0")
        check_ends(teacher, teacher_targets, teacher_ends, f"{text}\0")
        filled = f"Q: {prompt} A: "
        lead = data.tokenizer.decode(ours[1 : len(ours) - len(targets)])
        assert lead.startswith("Q: ")
        assert filled.endswith(lead[3:])  # the beginning of the prompt gave way, and not its template
        assert teacher.decode(theirs[1 : len(theirs) - len(teacher_targets)]) == filled


def gpt2_like(tmp_path):
    """A tokenizer that puts nothing before a text and leaves spaces out of its offsets, as GPT-2's and RoBERTa's."""
    from tokenizers import processors

    known = BPE(vocab_size=300).build(lambda: iter(LINES), tmp_path / "bpe")
    backend = known.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="</s>", eos_token="</s>")


class Ready:
    """A tokenizer that is there."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def build(self, corpus, cache):
        return self.tokenizer


def test_a_tokenizer_that_puts_nothing_before_a_text(tmp_path):
    texts = [f"{line}  \n\n end" for line in LINES]
    data = two(texts, tmp_path, teacher_tokenizer=Ready(gpt2_like(tmp_path)), max_length=200)
    teacher = data.teacher.tokenizer
    for index, (_, targets, ends), (theirs, teacher_targets, teacher_ends) in read(data):
        text = f"{data.texts('train')[index]}\0"
        assert theirs == [teacher.eos_token_id, *teacher_targets]  # its first token is predicted, too
        check_ends(data.tokenizer, targets, ends, text)
        check_ends(teacher, teacher_targets, teacher_ends, text)
        assert teacher_ends[-1] == ends[-1] == len(text)


def test_cached(tmp_path, monkeypatch, caplog):
    first = list(read(two(LINES, tmp_path)))
    made = []
    pair = teacher_tokens.encode_pair
    monkeypatch.setattr(teacher_tokens, "encode_pair", lambda *args: made.append(args) or pair(*args))
    with caplog.at_level(logging.INFO):
        assert list(read(two(LINES, tmp_path))) == first
        assert made == []
        other = two(LINES, tmp_path, teacher_max_length=20)
        assert list(read(other)) != first
    assert len(made) == 3  # the splits
    assert two(LINES, tmp_path).split.fingerprint != other.split.fingerprint


def test_fixed_length(tmp_path):
    data = two(LINES, tmp_path, pad="max", teacher_max_length=60)
    batch = next(iter(data.loader("train", train=True)))
    assert batch["input_ids"].shape == (4, 100)
    assert batch["teacher_input_ids"].shape == batch["teacher_target_ends"].shape == (4, 60)
    pad = batch["teacher_input_ids"][~batch["teacher_attention_mask"].bool()]
    assert (pad == data.facts["teacher_pad_token_id"]).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "masked_lm"}, "data.task=causal_lm"),
        ({"packing": True}, "data.packing=false"),
        ({"teacher_vocab_size": 17}, "teacher_vocab_size=17"),
        ({"teacher_max_length": 2}, "at least 4"),
        ({"teacher_tokenizer": object()}, "data.teacher_tokenizer must have build"),
    ],
)
def test_errors(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        two(LINES, tmp_path, **kwargs)


def test_one_tokenizer_has_no_keys_of_a_teacher(tmp_path):
    batch = next(iter(module(LINES, tmp_path, Bytes(), task="causal_lm").loader("train", train=True)))
    assert not any("teacher" in key or "ends" in key for key in batch)
