"""Tables as they come: what is read all the same, and what is named by its place and its cause."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.data.text.sources.files import PlainText, TextFiles

CONLL = "EU B-ORG\nrejects O\n\nPeter B-PER\n"


def load(tmp_path, name, content, **source):
    """The texts of a file with this content."""
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    return TextFiles(name, root=str(tmp_path), **{"label": "label", **source}).load()


def test_only_a_line_feed_ends_a_line(tmp_path):
    words = ["a\u2028b", "c\x85d", "e\x0bf\x1cg", "h"]
    lines = [json.dumps({"text": word, "label": i}, ensure_ascii=False) for i, word in enumerate(words)]
    texts = load(tmp_path, "a.jsonl", "\n \n".join(lines) + "\r\n\t\n")
    assert texts.text == words
    assert texts.label == [0, 1, 2, 3]
    assert load(tmp_path, "a.txt", "\n".join(words), label=None).text == words
    assert PlainText("a.txt", root=str(tmp_path), document="line").load().text == words


def test_what_the_first_object_does_not_have(tmp_path):
    rows = [{"text": "a"}, {"text": "b", "label": 1}, {"text": "c", "label": 0.5, "more": {}}]
    for name, content in (("a.jsonl", "\n".join(map(json.dumps, rows))), ("a.json", json.dumps(rows))):
        assert load(tmp_path, name, content).label == [None, 1.0, 0.5]
    mixed = "\n".join(json.dumps({"text": "a", "label": label}) for label in (1, "b", None))
    assert load(tmp_path, "a.jsonl", mixed).label == [1, "b", None]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_there_twice(tmp_path, kind):
    def read(**source):
        if kind == "csv":
            return load(tmp_path, "a.csv", "text,label,label,x,x\na,1,2,3,4\n", **source)
        columns = [pa.array([value]) for value in ("a", 1, 2, 3, 4)]
        parquet.write_table(pa.Table.from_arrays(columns, ["text", "label", "label", "x", "x"]), tmp_path / "a.parquet")
        return TextFiles("a.parquet", root=str(tmp_path), **source).load()

    with pytest.raises(ValueError, match=r"has 2 columns that are called 'label'"):
        read(label="label")
    assert read(label=None).text == ["a"]  # others may be


@pytest.mark.parametrize(
    ("name", "content", "source", "message"),
    [
        (
            "a.csv",
            "text,label\nx,y\ncafé,1\n".encode("latin-1"),
            {},
            r"line 3 has the byte 0xe9.*iconv -f latin1 -t utf-8",
        ),
        ("a.csv", "text,label\nx,é\n".encode("latin-1"), {}, "a.csv is not utf-8 text: line 2"),
        ("a.tsv", "text\tlabel\nx\t1\n".encode("utf-16"), {}, "probably utf-16"),
        ("a.jsonl", '{"text": "é"}'.encode("latin-1"), {}, "is not utf-8 text"),
        ("a.csv", "text;label\na, b;1\nc, d, e;2\n", {}, r"separated by ';': set data\.source\.delimiter=\";\""),
        ("a.csv", "text;label\na;1\n", {}, r"separated by ';'"),
        ("a.csv", "text\tlabel\na\t1\n", {}, r"separated by tab: set data\.source\.delimiter=\"\\t\""),
        ("a.csv", "text,label\na,b,1\n", {}, r"got 3: a,b,1.*A text that holds ',' must stand in quotation marks"),
        ("a.tsv", 'text\tlabel\na\t1\nsay "no\t1\t2\n', {}, r"data\.source\.quote=false"),
        ("a.conll", CONLL, {"words": "words", "tags": "tags"}, r"one word a line \(CoNLL\)"),
        ("a.tsv", CONLL.replace(" ", "\t"), {"words": "words", "tags": "tags"}, r"one word a line \(CoNLL\)"),
        ("a.txt", CONLL, {"words": "words", "tags": "tags"}, r"one word a line \(CoNLL\)"),
        (
            "a.csv",
            "words,tags\nin Rome,O LOC\n",
            {"words": "words", "tags": "tags"},
            r"row 0 has 'in Rome'.*must hold lists",
        ),
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"text": "b",, "label": 1}\n',
            {},
            r"a.jsonl, line 3, column 14: .*near '.*\"b\",, \"la",
        ),
        ("a.json", '[{"text": "a"},\n {"text": "b"', {}, r"a.json, line 2, column 14: .*delimiter"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', {}, r"line 2: expected an object .*got \['b'\]"),
        ("a.json", "[1]", {}, "entry 1: expected an object"),
        ("a.jsonl", "[" * 100_000, {}, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_cause(tmp_path, name, content, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, name, content, **{"label": None if "words" in source else "label", **source})
    if "quote=false" not in message:
        assert "quote=false" not in str(caught.value)


def test_another_delimiter(tmp_path):
    texts = load(tmp_path, "a.csv", 'text;label\n"a; b, c";1\n', delimiter=";")
    assert (texts.text, texts.label) == (["a; b, c"], [1])
    with pytest.raises(ValueError, match="must be one character"):
        load(tmp_path, "a.csv", "", delimiter="::")
