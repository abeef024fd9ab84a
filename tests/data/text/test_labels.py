"""Which labels a table has, which of its rows have none, and what is said of both."""

import logging
from collections import Counter

import pytest
import torch
from datasets import Dataset, DatasetDict

from kd_lightning.data.text.sources.files import TextFiles
from kd_lightning.data.text.sources.hub import HubText
from tests.data.text.given import Given, module


def table(tmp_path, labels, name="some.csv", rows=60):
    """A csv of so many rows with these labels in turn."""
    lines = [f"text {i},{labels[i % len(labels)]}" for i in range(rows)]
    (tmp_path / name).write_text("\n".join(["text,label", *lines]))
    return name


def data_of(tmp_path, files, task="classification", **source):
    return module(TextFiles(files, root=str(tmp_path), label="label", **source), tmp_path, task=task)


@pytest.fixture
def told(caplog):
    """What is said."""
    caplog.set_level(logging.INFO, logger="kd_lightning")
    return caplog


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["-1", "0", "1"], ("-1", "0", "1")), (["-1", "+1"], ("-1", "1")), (["-1.0", "1.0"], ("-1", "1"))],
)
def test_negative_labels_are_classes_like_others(tmp_path, told, labels, names):
    data = data_of(tmp_path, table(tmp_path, labels))
    data.prepare()
    assert data.class_names == names
    assert not any((data.targets(split) < 0).any() for split in ("train", "validation", "test"))
    train = data.targets("train").bincount().tolist()
    assert f"of each class in training: {', '.join(f'{n} {c}' for n, c in zip(names, train, strict=True))}" in told.text
    assert "without label" not in told.text


@pytest.mark.parametrize("missing", [-1, [-1, "?"], "-1"])
def test_a_label_is_missing_where_the_user_says_so(tmp_path, told, missing):
    data = data_of(tmp_path, table(tmp_path, ["-1", "0", "1"]), missing=missing)
    data.prepare()
    assert data.class_names == ("0", "1")
    found = torch.cat([data.targets(split) for split in ("train", "validation", "test")]).tolist()
    assert Counter(found) == {-100: 20, 0: 20, 1: 20}
    assert "without label: 14 of 42 train, 2 of 6 validation, 4 of 12 test" in told.text


@pytest.mark.parametrize("labels", [["", "0", "1"], [" ", "a", "b"]])
def test_an_empty_cell_is_no_label(tmp_path, labels):
    data = data_of(tmp_path, table(tmp_path, labels))
    data.prepare()
    assert data.num_classes == 2
    assert int((data.targets("train") == -100).sum()) == 14


def test_a_missing_number_is_none(tmp_path):
    data = data_of(tmp_path, table(tmp_path, ["-1", "0.5", ""]), task="regression", missing=-1)
    found = torch.cat([data.targets(split) for split in ("train", "validation", "test")])
    assert found[found.isfinite()].tolist() == [0.5] * 20


def test_tags_that_are_missing(tmp_path, told):
    rows = '{"words": ["in", "Rome", "now"], "tags": [-100, 1, 7]}\n{"words": ["a", "b"], "tags": [0, -1]}\n'
    (tmp_path / "ner.jsonl").write_text(rows * 20)
    source = TextFiles("ner.jsonl", root=str(tmp_path), words="words", tags="tags", missing=7)
    data = module(source, tmp_path, task="token_classification")
    data.prepare()
    assert data.class_names == ("-1", "0", "1")
    assert {tuple(row[row >= 0].tolist()) for row in data.targets("train")} == {(1, 0), (2,)}
    train = data.targets("train")
    counts = ", ".join(f"{name} {int((train == i).sum())}" for i, name in enumerate(data.class_names))
    assert f"of each class in training: {counts}" in told.text


def test_a_split_of_the_hub_without_labels_is_left_out(tmp_path, told):
    def part(name, labels):
        return Dataset.from_dict({"text": [f"{name} {i}" for i in range(30)], "label": (labels * 30)[:30]})

    splits = {"train": part("train", [-1, 0, 1]), "validation": part("held", [-1, 0, 1]), "test": part("no", [-1])}
    DatasetDict(splits).save_to_disk(tmp_path / "set")
    data = module(HubText(str(tmp_path / "set"), label="label"), tmp_path)
    data.prepare()
    assert data.class_names == ("-1", "0", "1")  # of these -1 is a class
    assert len(data.split.validation) == 30
    found = Counter(text.split()[0] for split in ("train", "validation", "test") for text in data.texts(split))
    assert found == {"train": 30, "held": 30}
    assert "left out: the test split (30 samples, none with a label)" in told.text


def test_what_is_empty_cut_or_double_is_counted(tmp_path, told):
    texts = ["long " * 30, "a", "", " ", "a", *(f"text {i}" for i in range(45))]
    source = Given(texts, label=[0, 1] * 25)
    data = module(source, tmp_path, max_length=32, drop_duplicates=True, test_fraction=0, val_fraction=0)
    for _ in range(2):  # the second time tokens come from the cache
        told.clear()
        data = module(source, tmp_path, max_length=32, drop_duplicates=True, test_fraction=0, val_fraction=0)
        data.prepare()
        assert "left out: 1 duplicates; empty texts: 2; longer than max_length=32, and cut: 1 train" in told.text


@pytest.mark.parametrize("task", ["causal_lm", "two tokenizers"])
def test_a_language_model_counts_what_it_cuts(tmp_path, told, task):
    from kd_lightning.data.text.tokenizers import Bytes

    own = {"teacher_tokenizer": Bytes()} if task == "two tokenizers" else {}
    prompts = ["?" * 40, "? ", "? ", "? "] * 10
    source = Given([" yes", " no", " yes" * 20, " no"] * 10, prompt=prompts)
    options = {"task": "causal_lm", "max_length": 32, "test_fraction": 0, "val_fraction": 0, **own}
    data = module(source, tmp_path, **options)
    data.prepare()
    assert "longer than max_length=32, and cut: 20 train" in told.text


def test_the_largest_and_the_smallest_of_many_classes_are_named(tmp_path, told):
    labels = [f"c{i}" for i in range(20)] * 10 + ["c3"] * 50
    module(Given([f"text {i}" for i in range(250)], label=labels), tmp_path).prepare()
    assert "of each class in training: 7 (c0) to 42 (c3), 20 classes" in told.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x"] * 40, r"one class only \('x'\)"),
        (
            [0, 1] * 15 + [2] * 10,
            r"the test split has classes that never occur in training: 2\. .*data\.source\.missing",
        ),
        ([[0], [1]] * 20, r"A label is a list \(\[0\]\).*one class a sample"),
        ([{"a": 1}] * 40, "A label is a dict"),
        ([0.0, float("inf")] * 20, "Labels such as inf are no classes"),
    ],
)
def test_classes_that_cannot_be_learnt_are_refused(tmp_path, labels, message):
    source = Given([f"text {i}" for i in range(40)], label=labels, test=torch.arange(30, 40))
    with pytest.raises(ValueError, match=message):
        module(source, tmp_path).prepare()


def test_a_rare_class_that_the_split_holds_back_is_named(tmp_path, told):
    labels = ["a"] * 20 + ["b"] * 20 + ["rare"]
    data = module(Given([f"text {i}" for i in range(41)], label=labels), tmp_path, test_fraction=0.9, val_fraction=0)
    data.prepare()
    assert ("rare" in told.text.split("never occur in training: ")[-1]) == (not (data.targets("train") == 2).any())
    assert "rare" in told.text


def test_numbers_and_texts_of_one_class_are_one(tmp_path):
    data = module(Given([f"text {i}" for i in range(40)], label=[1, "1", 2, "2"] * 10), tmp_path)
    assert data.facts["num_classes"] == 2
    named = module(
        Given([f"text {i}" for i in range(40)], label=[0.0, 1.0, float("nan")] * 13 + [1], class_names=("a", "b")),
        tmp_path,
    )
    assert sorted(named.targets("train").unique().tolist()) == [-100, 0, 1]
