"""The presets read data of the shape that they name."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.data.text.tokenizers import Bytes

# Columns, classes (None: a number) and splits as the hub's nyu-mll/glue has them.
GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "stsb": (["sentence1", "sentence2"], None),
}


def preset(name, tmp_path, **overrides):
    """A data module of a shipped file."""
    cfg = OmegaConf.create({"data": OmegaConf.load(conf_dir() / "data" / f"{name}.yaml")})
    cfg.data.cache_dir = str(tmp_path / "cache")
    for key, value in overrides.items():
        OmegaConf.update(cfg.data, key.replace("__", "."), value, force_add=False)
    return instantiate(cfg.data)


@pytest.mark.parametrize("task", sorted(GLUE))
def test_glue(tmp_path, task):
    columns, names = GLUE[task]
    label = Value("float32") if names is None else ClassLabel(names=names)
    features = Features({**{name: Value("string") for name in columns}, "label": label, "idx": Value("int32")})

    def part(split, size):
        rows = {name: [f"{split} {name} {i}" for i in range(size)] for name in columns}
        labels = [-1 if split.startswith("test") else i % len(names or "1234") for i in range(size)]
        return Dataset.from_dict({**rows, "label": labels, "idx": list(range(size))}, features=features)

    held = ("validation_matched", "validation_mismatched", "test_matched") if task == "mnli" else ("validation", "test")
    DatasetDict({"train": part("train", 40), **{name: part(name, 12) for name in held}}).save_to_disk(tmp_path / "glue")
    Bytes().build(lambda: iter(()), tmp_path).save_pretrained(tmp_path / "tokenizer")
    folders = {"source__name": str(tmp_path / "glue"), "tokenizer__name": str(tmp_path / "tokenizer")}
    data = preset(f"glue_{task}", tmp_path, **folders)
    data.prepare()
    assert data.name == f"glue_{task}"
    assert {name: len(data.split[name]) for name in ("train", "validation", "test")} == {
        "train": 36,
        "validation": 4,
        "test": 12,
    }
    assert data.task.name == ("regression" if names is None else "classification")
    assert data.num_classes == (1 if names is None else len(names))
    assert list(data.class_names) == (names or [])
    assert sorted(data.texts("test"))[0] == "\t".join(f"{held[0]} {name} 0" for name in columns)
    assert (data.targets("test") >= 0).all()
    assert ("token_type_ids" in next(iter(data.loader("train")))) == (len(columns) == 2)


def test_instructions(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "2+2=", "response": "4"}\n' * 20)
    data = preset("instructions", tmp_path, source__files=str(tmp_path / "x.jsonl"), tokenizer__vocab_size=260)
    batch = next(iter(data.loader("train")))
    assert batch["prompt_length"].unique().tolist() == [5]
    assert batch["loss_mask"].sum(1).unique().tolist() == [2]
    packed = preset("instructions", tmp_path, source__files=str(tmp_path / "x.jsonl"), packing=True)
    assert packed.facts["max_length"] == 512
    assert packed.num_samples == 1


def test_corpus_and_text_files(tmp_path):
    for i in range(12):
        (tmp_path / f"book{i}.txt").write_text(f"chapter {i} of a book\n" * 60)
    data = preset("corpus", tmp_path, root=str(tmp_path), source__files="book*.txt", tokenizer__vocab_size=280)
    assert next(iter(data.loader("train")))["input_ids"].shape[1] == 256
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"it is {i}\t{'ab'[i % 2]}\n" for i in range(20)))
    data = preset("text_files", tmp_path, root=str(tmp_path), source__files="t.tsv")
    data.prepare()
    assert data.class_names == ("a", "b")
