"""Batches of text, task by task."""

import logging
import re

import pytest
import torch

from kd_lightning.data.text.sources.synthetic import SyntheticText
from kd_lightning.data.text.tokenizers import Bytes
from tests.data.text.given import Given, everything, module

START, END, PAD, MASK = 257, 258, 256, 259
NUMBERS = [f"number {i} " + "x" * (i % 7) for i in range(60)]


def test_classification(tmp_path):
    labels = ["no", "yes", "maybe", None] * 15
    data = module(Given(NUMBERS, label=labels), tmp_path)
    assert data.facts == {"num_classes": 3, "vocab_size": 260, "pad_token_id": PAD, "max_length": 64}
    assert data.class_names == ("maybe", "no", "yes")
    assert (data.num_samples, data.image_size, data.channels, data.one_view) == (42, None, None, True)
    seen = {}
    for batch in data.loader("train", train=True):
        assert batch["input_ids"].shape == batch["attention_mask"].shape
        assert batch["view"] == 0
        for ids, mask, target, index in zip(
            batch["input_ids"], batch["attention_mask"], batch["target"], batch["index"], strict=True
        ):
            own = ids[mask.bool()].tolist()
            assert own[0] == START
            assert own[-1] == END
            assert (ids[~mask.bool()] == PAD).all()
            text = bytes(own[1:-1]).decode()
            assert text == data.texts("train")[index]
            expected = labels[NUMBERS.index(text)]
            assert int(target) == (-100 if expected is None else data.class_names.index(expected))
            seen[int(index)] = int(target)
    targets = data.targets("train").tolist()
    assert all(targets[index] == target for index, target in seen.items())
    assert len(seen) == 40


def test_labels_that_are_numbers_or_belong_to_names(tmp_path):
    stars = module(Given(NUMBERS, label=[1 + i % 5 for i in range(60)]), tmp_path)
    stars.prepare()
    assert stars.class_names == ("1", "2", "3", "4", "5")
    assert sorted(stars.targets("train").unique().tolist()) == [0, 1, 2, 3, 4]
    named = module(Given(NUMBERS, label=[2, 0, None] * 20, class_names=("a", "b", "c")), tmp_path)
    assert named.facts["num_classes"] == 3  # also where a class does not occur
    assert sorted(named.targets("train").unique().tolist()) == [-100, 0, 2]
    with pytest.raises(ValueError, match=r"-1 is none of the 3 classes, numbered from 0: a, b, c.*missing=-1"):
        module(Given(NUMBERS, label=[2, 0, -1] * 20, class_names=("a", "b", "c")), tmp_path).prepare()


def test_regression(tmp_path):
    data = module(Given(NUMBERS, label=[0.5 * i if i % 3 else None for i in range(60)]), tmp_path, task="regression")
    assert data.facts["num_classes"] == 1
    batch = next(iter(data.loader("test")))
    assert batch["target"].dtype == torch.float32
    for index, value in zip(batch["index"], batch["target"], strict=True):
        number = int(data.texts("test")[index].split()[1])
        assert value.isnan() if number % 3 == 0 else value == 0.5 * number


def test_pairs_have_token_types(tmp_path):
    data = module(Given(["ab", "c"] * 10, pair=["d", "efg"] * 10, label=[0, 1] * 10), tmp_path)
    batch = next(iter(data.loader("train")))
    for ids, types, mask in zip(batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], strict=True):
        first = ids.tolist().index(END)
        assert types.tolist() == [0] * (first + 1) + [int(m) for m in mask[first + 1 :]]
    assert data.texts("train")[0] in ("ab\td", "c\tefg")


def test_a_word_carries_its_class_on_its_first_piece(tmp_path):
    words, tags = [["an", "old", "fig"], ["tin"]] * 10, [["O", "O", "fruit"], ["metal"]] * 10
    source = Given([" ".join(w) for w in words], words=words, tags=tags)
    data = module(source, tmp_path, task="token_classification", val_fraction=0.0, test_fraction=0.5)
    data.prepare()
    assert data.class_names == ("O", "fruit", "metal")
    rows = {len(row["input_ids"]): row for row in everything(data)}
    # <s> a n _ o l d _ f i g </s>
    assert rows[12]["target"] == [-100, 0, -100, 0, -100, -100, -100, 1, -100, -100, -100, -100]
    assert rows[5]["target"] == [-100, 2, -100, -100, -100]
    assert rows[12]["loss_mask"] == [t != -100 for t in rows[12]["target"]]
    assert data.targets("train").shape == (10, 12)


def test_embedding_asks_for_nothing(tmp_path):
    data = module(list(NUMBERS), tmp_path, task="embedding")
    assert data.facts["num_classes"] is None
    assert next(iter(data.loader("train")))["target"].tolist() == [-100] * 42


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_language_model_predicts_the_next_token_of_the_response(tmp_path, side):
    prompts, responses = [f"q{i}" * (1 + i % 3) for i in range(20)], ["r" * (1 + i % 4) for i in range(20)]
    source = Given(responses, prompt=prompts)
    data = module(source, tmp_path, task="causal_lm", padding_side=side, test_fraction=0.0)
    for batch in data.loader("train"):
        for row in range(len(batch["index"])):
            prompt, response = data.texts("train")[batch["index"][row]].split("\t")
            mask = batch["attention_mask"][row].bool()
            ids = batch["input_ids"][row][mask].tolist()
            target = batch["target"][row]
            assert ids == [START, *prompt.encode(), *response.encode(), END]
            assert batch["prompt_length"][row] == 1 + len(prompt)
            # The last token of the prompt predicts the first of the response, the last of the response the end.
            assert target[mask].tolist() == [-100] * len(prompt) + [*response.encode(), END, -100]
            assert (target[~mask] == -100).all()
            assert mask.tolist() == sorted(mask.tolist(), reverse=side == "right")
            assert batch["loss_mask"][row].sum() == len(response) + 1
    with pytest.raises(ValueError, match="no targets beside"):
        data.targets("train")


def test_plain_text_is_learnt_from_its_first_token(tmp_path):
    data = module(list(NUMBERS), tmp_path, task="causal_lm")
    for row in everything(data):
        assert row["target"] == [*row["input_ids"][1:], -100]
    assert next(iter(data.loader("train")))["prompt_length"].unique().tolist() == [0]


def test_a_prompt_that_is_too_long_loses_its_beginning(tmp_path):
    source = Given(["abc"] * 8 + ["w" * 100] * 8, prompt=["0123456789" * 10] * 16)
    data = module(source, tmp_path, task="causal_lm", max_length=32, val_fraction=0, test_fraction=0)
    for row in everything(data):
        assert len(row["input_ids"]) == 32
        text = bytes(i for i in row["input_ids"] if i < 256).decode()
        if "w" in text:
            assert text == "567890123456789"[-15:] + "w" * 16
        else:
            assert row["input_ids"][-1] == END
            assert text == ("0123456789" * 10)[-27:] + "abc"


def test_templates(tmp_path):
    source = Given(["yes"] * 10, prompt=["ok?"] * 10)
    data = module(source, tmp_path, task="causal_lm", template="Q: {prompt}\nA: ")
    ids = everything(data)[0]["input_ids"]
    assert bytes(i for i in ids if i < 256).decode() == "Q: ok?\nA: yes"
    with pytest.raises(ValueError, match="must hold"):
        module(source, tmp_path, task="causal_lm", template="Q: ").prepare()
    with pytest.raises(ValueError, match="no chat template"):
        module(source, tmp_path, task="causal_lm", template="chat").prepare()


class Chat(Bytes):
    """Bytes with a template that begins as the tokenizer does, as those of Llama 3 do."""

    def build(self, corpus, cache):
        tokenizer = super().build(corpus, cache)
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}!{% endfor %}[me]"
        )
        return tokenizer


@pytest.mark.parametrize("both", [False, True], ids=["one", "two tokenizers"])
@pytest.mark.parametrize("template", ["chat", "<s>[user]{prompt}![me]"])
def test_a_template_begins_once_and_is_never_cut(tmp_path, template, both):
    source = Given(["yes"] * 12, prompt=["ok?", "x" * 60 + "user what"] * 6)
    options = {"teacher_tokenizer": Chat()} if both else {}
    data = module(source, tmp_path, tokenizer=Chat(), task="causal_lm", template=template, max_length=40, **options)
    found = {bytes(i for i in row["input_ids"] if i < 256) for row in everything(data)}
    cut = 40 - len("[user]![me]yes") - 2
    assert found == {b"[user]ok?![me]yes", b"[user]" + (b"x" * 60 + b"user what")[-cut:] + b"![me]yes"}
    for row in everything(data):
        assert row["input_ids"].count(257) == 1 == row["input_ids"].count(258)
        if both:
            assert row["teacher_input_ids"] == row["input_ids"]
    with pytest.raises(ValueError, match=r"template alone has 11 tokens.*larger data\.max_length"):
        module(
            source, tmp_path, tokenizer=Chat(), task="causal_lm", template=template, max_length=16, **options
        ).prepare()


def test_pad_max_gives_every_batch_one_shape(tmp_path):
    data = module(list(NUMBERS), tmp_path, task="embedding", pad="max")
    assert {tuple(b["input_ids"].shape) for b in data.loader("train", train=True)} == {(4, 64)}
    longest = module(list(NUMBERS), tmp_path, task="embedding", buckets=False)
    widths = {b["input_ids"].shape[1] for b in longest.loader("train", train=True)}
    assert max(widths) < 64


def test_buckets_pad_less_and_show_the_same(tmp_path):
    texts = ["z" * (1 + (7 * i) % 50) for i in range(200)]
    padding, seen = {}, {}
    for buckets in (True, False):
        data = module(list(texts), tmp_path, task="embedding", buckets=buckets)
        batches = list(data.loader("train", train=True))
        padding[buckets] = sum(int((b["attention_mask"] == 0).sum()) for b in batches)
        seen[buckets] = sorted(i for b in batches for i in b["index"].tolist())
    assert seen[True] == seen[False]
    assert padding[True] < 0.2 * padding[False]


def test_order_is_a_function_of_seed_and_epoch(tmp_path):
    def order(seed, epoch):
        data = module(list(NUMBERS), tmp_path, task="embedding")
        data.order_seed = seed
        loader = data.loader("train", train=True)
        loader.sampler.set_epoch(epoch)
        return [b["index"].tolist() for b in loader]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_the_source_is_read_once_and_the_split_is_kept(tmp_path):
    source = Given(list(NUMBERS), label=[0, 1] * 30)
    data = module(source, tmp_path)
    data.prepare_data()
    data.setup("fit")
    list(data.train_dataloader())
    assert source.loads == 1
    path = data.save_split(tmp_path)
    again = module(source, tmp_path, split_file=str(path), split_seed=9)
    assert again.split.fingerprint == data.split.fingerprint
    assert module(source, tmp_path, split_seed=9).split.fingerprint != data.split.fingerprint
    assert module(source, tmp_path, max_length=12).split.fingerprint != data.split.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "clasification"}, "Did you mean classification"),
        ({"pad": "longer"}, "Did you mean longest"),
        ({"padding_side": "up"}, "choose right, left"),
        ({"num_classes": 7}, "num_classes=7, but given has 2"),
        ({"vocab_size": 300}, "vocab_size=300, but given has 260"),
        ({"max_length": None}, "knows no limit"),
        ({"blocks": True}, "for language models"),
        ({"packing": True}, "for data.task=causal_lm"),
        ({"task": "token_classification"}, "needs the column 'tags'"),
        ({"mask_probability": 0.0}, "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        module(Given(list(NUMBERS), label=[0, 1] * 30), tmp_path, **options).prepare()


def test_regression_of_words_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a label is 'good'"):
        module(Given(["a", "b"], label=["good", "bad"]), tmp_path, task="regression").prepare()
    with pytest.raises(ValueError, match=r"set data\.task=regression"):
        module(Given(["a", "b"], label=[0.3, 1.5]), tmp_path).prepare()


def test_duplicates_leave_the_training_split_first(tmp_path):
    texts = ["a", "b", "a", "c", "b", "d", "e", "a"]
    source = Given(texts, label=[0, 1] * 4, test=torch.tensor([4, 5]), validation=torch.tensor([7]))
    data = module(source, tmp_path, drop_duplicates=True)
    assert {name: sorted(data.texts(name)) for name in ("train", "validation", "test")} == {
        "train": ["c", "e"],
        "validation": ["a"],
        "test": ["b", "d"],
    }


def test_every_task_of_the_synthetic_source(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for task in ("classification", "regression", "token_classification", "masked_lm", "causal_lm", "embedding"):
        data = module(SyntheticText(60, task), tmp_path, task=task, max_length=80)
        batch = data.ready(next(iter(data.loader("train", train=True))))
        assert batch["input_ids"].shape[0] == 4
        assert re.search(f"42 train, 6 validation, 12 test.*, {task}$", caplog.text, re.MULTILINE)
