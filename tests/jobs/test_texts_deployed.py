"""Students of texts, from a finished run to files and answers, for every task."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from hydra.utils import instantiate

from kd_lightning import load_run
from kd_lightning.core.calls import TokenCall
from kd_lightning.deploy.formats.registry import FORMATS
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.files.artifact import Artifact
from kd_lightning.tasks.registry import find_task
from tests.conftest import QUICK
from tests.jobs.finished import TEXT_FILES as FILES

OF_TOKENS = ("token_classification", "masked_lm", "causal_lm")
TEXTS = [
    "the old apple",
    "a pear and some plum near my gold",
    "rain with hail",
    "my horn",
    "fig",
    "new iron",
    "of snow",
]


def record_of(run):
    return json.loads((run / "export" / "export.json").read_text())


def in_pytorch(run, task):
    """The run's own student as a function of tensors, as it was trained."""
    net, call = load_run(run).net, TokenCall()
    output = "sentence_embedding" if task == "embedding" else "logits"
    return lambda tensors: call(net, tensors)[output].detach()


def test_metrics_and_the_loss_of_the_control_follow_from_the_task(text_run):
    """With cross-entropy, which of one logit is 0, neither teacher nor control would learn anything."""
    run = text_run("regression")
    (teacher,) = run.parents[1].glob("teachers/*/arm.json")
    alone = run / "alone" / "seed_0"
    for folder in (teacher.parent, alone):
        artifact = Artifact.open(folder)
        assert artifact.record["method"] == "smooth_l1"
        assert set(artifact.record["validation"]) == {"val/spearman"}
        losses = [row["train/smooth_l1"] for row in artifact.curves if "train/smooth_l1" in row]
        assert losses
        assert min(losses) > 0
    assert Artifact.open(text_run("causal_lm") / "alone" / "seed_0").record["method"] == "ce"


@pytest.mark.parametrize("method", ["kd", "ce", "dkd"])
def test_a_method_of_classes_is_refused_for_values(cli, method):
    outcome = cli("data=synthetic_text", "data.task=regression", "data.source.samples=60", *QUICK, "teacher.fit=null",
                  "model@teacher=tiny_bert", "model@student=tiny_bert", "job=train", f"method={method}")  # fmt: skip
    assert outcome.code == 1
    assert "can teach nothing" in outcome.text or "classes" in outcome.text
    assert "Traceback" not in outcome.text


@pytest.mark.parametrize("task", FILES)
def test_every_file_says_what_pytorch_says_of_any_number_and_length(text_run, task):
    run = text_run(task)
    expected, reader = in_pytorch(run, task), ExportedStudent(run).reader
    loaded = {name: FORMATS[name].load(run / "export" / FORMATS[name].file) for name in record_of(run)["formats"]}
    assert set(loaded) == set(FILES[task].split(","))
    whole = expected(reader(TEXTS).tensors)
    for name, answer in loaded.items():
        tolerance = {"rtol": 1e-3, "atol": 1e-4} if FORMATS[name].exact else {"rtol": 0.1, "atol": 0.1}
        for some in (TEXTS, TEXTS[:2], TEXTS[1:2], TEXTS[4:5]):
            tensors = reader(some).tensors
            got, wanted = answer(tensors), expected(tensors)
            assert got.shape == wanted.shape
            valid = tensors["attention_mask"].bool()
            if task in OF_TOKENS:
                got, wanted = got[valid], wanted[valid]
            torch.testing.assert_close(got, wanted, **tolerance)
        for i, text in enumerate(TEXTS):  # padding left out
            alone = answer(reader([text]).tensors)[0]
            beside = whole[i][: len(alone)] if task in OF_TOKENS else whole[i]
            torch.testing.assert_close(alone, beside, **tolerance)


@pytest.mark.parametrize("task", FILES)
def test_the_record_tells_of_each_file(text_run, task):
    record = record_of(text_run(task))
    assert record["task"] == task
    for name, figures in record["formats"].items():
        assert figures["bytes"] > 0
        assert figures["milliseconds_64"] > 0
        if FORMATS[name].exact:
            assert figures["difference"] < 1e-3
            assert figures["agreement"] > 0.98
            assert figures["accuracy"] == pytest.approx(record["pytorch"]["accuracy"], abs=0.02)
        else:
            assert figures["difference"] > 1e-6
            assert figures["accuracy"] >= record["pytorch"]["accuracy"] - 0.1
            assert figures["bytes"] < record["formats"]["onnx"]["bytes"]


@pytest.mark.parametrize("task", FILES)
def test_transformers_alone_loads_the_folder(text_run, task):
    run = text_run(task)
    folder = run / "export" / "huggingface"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    net = getattr(transformers, find_task(task).head).from_pretrained(folder).eval()
    tensors = tokenizer(TEXTS, padding=True, truncation=True, padding_side="right", return_tensors="pt")
    tensors = {name: tensors[name] for name in ("input_ids", "attention_mask")}
    output, valid = net(**tensors), tensors["attention_mask"].bool()
    expected = in_pytorch(run, task)(tensors)
    if task == "embedding":
        states = output.last_hidden_state
        got = torch.stack([row[mask].mean(0) for row, mask in zip(states, valid, strict=True)])
    else:
        got = output.logits
    pick = valid if task in OF_TOKENS else ...
    torch.testing.assert_close(got[pick], expected[pick], rtol=1e-3, atol=1e-4)
    assert tokenizer.model_max_length == 64
    if task.endswith("classification"):
        names = (run / "export" / "labels.txt").read_text().split()
        assert [net.config.id2label[i] for i in range(len(names))] == names
    if task == "causal_lm":
        start = torch.tensor([[*ExportedStudent(run).reader.prompt("the old")]])
        said = net.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=6, do_sample=False)
        text = tokenizer.decode(said[0, start.shape[1] :], skip_special_tokens=True)
        assert text == ExportedStudent(run).answer(["the old"], new_tokens=6)[0]["continuation"]


ANSWERED = {
    "classification": lambda a: [c["class"] for c in a["classes"]] and a["classes"][0]["class"].startswith("topic"),
    "regression": lambda a: isinstance(a["value"], float),
    "token_classification": lambda a: [word for word, _ in a["tokens"]] == a["text"].split(),
    "masked_lm": lambda a: len(a["classes"]) == 3,
    "causal_lm": lambda a: isinstance(a["continuation"], str),
    "embedding": lambda a: len(a["embedding"]) == 32,
}


@pytest.mark.parametrize("task", FILES)
def test_however_texts_are_given_the_answers_are_the_same(text_run, task, cli, monkeypatch):
    texts = ["the old apple", 'some ä, "quoted" <mask>', "[red]hail[/red]"]
    texts = [f"{text} <mask>" if task == "masked_lm" and "<" not in text else text for text in texts]
    Path("t.txt").write_text("\n".join([*texts, "", ""]), encoding="utf-8")
    with open("t.csv", "w", newline="", encoding="utf-8-sig") as handle:
        csv.writer(handle).writerows([["id", "text"], *enumerate(texts)])
    Path("t.jsonl").write_text("".join(json.dumps({"text": t, "id": 1}) + "\n" for t in texts))
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{text}\r\n" for text in texts)))
    seen = []
    ways = ("t.txt", "t.csv", "t.jsonl", "-") if task == "classification" else ("t.jsonl",)
    for given in ways:
        outcome = cli("job=predict", f"run={text_run(task)}", f"inputs=[{given}]", "predict.output=new/a.jsonl",
                      "predict.batch_size=2", "predict.new_tokens=4")  # fmt: skip
        assert outcome.code == 0, outcome.text
        seen.append([json.loads(line) for line in Path("new/a.jsonl").read_text(encoding="utf-8").splitlines()])
    assert all(answers == seen[0] for answers in seen)
    assert [answer["text"] for answer in seen[0]] == texts
    assert all(ANSWERED[task](answer) for answer in seen[0])
    assert "[red]hail" in outcome.text  # as it was written, not as markup


def test_a_sentence_on_the_command_line_and_answers_as_a_table(text_run, cli):
    outcome = cli("job=predict", f"run={text_run('classification')}", "inputs=['the old apple, and a pear']",
                  "predict.output=a.csv", "predict.backend=onnx_int8")  # fmt: skip
    assert outcome.code == 0, outcome.text
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    best = ExportedStudent(text_run("classification"), "onnx_int8").answer(["the old apple, and a pear"])[0]["classes"][
        0
    ]
    assert rows == [{"text": "the old apple, and a pear", "class": best["class"],
                     "probability": str(best["probability"]), "error": ""}]  # fmt: skip
    assert (
        cli("job=predict", f"run={text_run('token_classification')}", "inputs=['my horn']", "predict.output=a.csv").code
        == 0
    )
    tokens = json.loads(next(csv.DictReader(Path("a.csv").read_text().splitlines()))["tokens"])
    assert [word for word, _ in tokens] == ["my", "horn"]


def test_a_text_without_a_mask_loses_nothing(text_run, cli):
    given = "inputs=['the <mask> apple','an apple']"
    outcome = cli("job=predict", f"run={text_run('masked_lm')}", given, "predict.output=a.csv")
    assert outcome.code == 1
    assert "1 of 2 texts could not be answered: 'an apple': There is no <mask>" in outcome.text
    rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
    assert [bool(row["class"]) for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ("[]", "inputs=[texts.txt]"),
        ("[nowhere.csv]", "nowhere.csv does not exist"),
        ("[other.csv]", "no column 'text' with a text in every row; there are id, words"),
        ("[latin.txt]", "latin.txt is not UTF-8 (byte 2)"),
        ("[broken.jsonl]", "broken.jsonl, line 2, is not JSON"),
        ("[list.jsonl]", "list.jsonl, line 1, is no object"),
        ("[half.jsonl]", "half a surrogate pair"),
        ("[number.jsonl]", "no column 'text'"),
    ],
)
def test_what_cannot_be_read_is_said(text_run, cli, inputs, words):
    Path("other.csv").write_text("id,words\n1,a\n")
    Path("latin.txt").write_bytes("grüße".encode("latin-1"))
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    Path("list.jsonl").write_text('["a"]\n')
    Path("half.jsonl").write_text('{"text": "\\ud83d"}\n')
    Path("number.jsonl").write_text('{"text": 1}\n')
    outcome = cli("job=predict", f"run={text_run('classification')}", f"inputs={inputs}")
    assert (outcome.code, words in " ".join(outcome.text.split())) == (1, True), outcome.text
    assert "Traceback" not in outcome.text


def test_a_picture_format_is_refused_and_the_others_are_written(text_run, cli):
    outcome = cli("job=export", f"run={text_run('regression')}", "export.formats=[executorch]")
    assert outcome.code == 1
    assert (
        "There is no ExecuTorch file of this student, BertForSequenceClassification: it is for images." in outcome.text
    )
    assert set(record_of(text_run("regression"))["formats"]) == {"onnx", "huggingface"}


def test_long_texts_are_cut_and_say_so(text_run):
    student = ExportedStudent(text_run("classification"))
    long = "apple " * 40
    answers = student.answer(["an apple", long])
    assert [answer.get("cut", False) for answer in answers] == [False, True]
    assert answers[1]["classes"] == student.answer([long[:62]])[0]["classes"]  # 64 tokens less two around


def test_continuations_together_are_those_alone_and_go_on_from_the_end(text_run):
    run = text_run("causal_lm")
    student, net = ExportedStudent(run), in_pytorch(run, "causal_lm")
    texts = ["a", "the old apple and", "snow " * 30]
    together = [answer["continuation"] for answer in student.answer(texts, new_tokens=5)]
    for text, said in zip(texts, together, strict=True):
        ids = [257, *text.encode()]
        ids = ids if len(ids) <= 64 else [257, *ids[-63:]]
        new = []
        for _ in range(5):
            seen = torch.tensor([ids])
            new.append(int(net({"input_ids": seen, "attention_mask": torch.ones_like(seen)})[0, -1].argmax()))
            if new[-1] == 258:
                break
            ids = [*ids, new[-1]] if len(ids) < 64 else [257, *ids[2:], new[-1]]
        assert said == bytes(t for t in new if t < 256).decode(errors="replace")


@pytest.mark.parametrize("task", ["classification", "embedding", "causal_lm", "masked_lm"])
def test_the_card_runs_as_it_is_written(text_run, task, monkeypatch):
    export = text_run(task) / "export"
    monkeypatch.chdir(export)
    card = Path("model_card.md").read_text()
    start, *uses, end, whole = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert len(uses) == len(record_of(text_run(task))["formats"])
    seen = []
    for use in uses:
        names = {}
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec("\n".join([start, use, end]), names)
        assert out.getvalue().startswith("(1, ")
        seen.append(torch.as_tensor(names["logits"]))
    for found in seen[1:]:
        torch.testing.assert_close(found, seen[0], rtol=0.1, atol=0.1)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(whole, {})
    assert {"causal_lm": "continuation", "embedding": "embedding"}.get(task, "classes") in out.getvalue()


def test_perplexity_of_a_finished_language_model(text_run, cli):
    run = text_run("causal_lm")
    outcome = cli("job=evaluate", f"run={run}")
    assert outcome.code == 0, outcome.text
    found = json.loads((outcome.folder / "metrics.json").read_text())
    data = instantiate(load_run(run).settings.data)
    net, losses = in_pytorch(run, "causal_lm"), []
    for batch in data.loader("test", whole=True):
        logits = net(batch).flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits, batch["target"].flatten(), reduction="none"))
    told = torch.cat(losses)
    told = told[told != 0]
    assert found["perplexity"] == pytest.approx(float(told.mean().exp()), rel=1e-3)
