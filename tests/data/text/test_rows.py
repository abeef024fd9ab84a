"""Tokens on disk, and packing."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_lightning.data.text import splits as text_splits
from kd_lightning.data.text.packing import pack
from kd_lightning.data.text.rows import cached_rows, make_rows
from tests.data.text.given import Given, everything, module

TEXTS = [f"text {i} " + "y" * (i % 9) for i in range(50)]


def test_texts_are_tokenised_once(tmp_path, monkeypatch):
    labels = [i % 2 for i in range(50)]
    first = module(Given(TEXTS, label=labels), tmp_path)
    rows = everything(first)
    assert len(list((tmp_path / "cache").glob("rows-*.safetensors"))) == 3
    calls = []
    monkeypatch.setattr(text_splits, "encode", lambda *args: calls.append(args) or pytest.fail("tokenised again"))
    again = module(Given(TEXTS, label=labels), tmp_path, seed=7, batch_size=8)
    assert everything(again) == rows
    for change in ({"max_length": 20}, {"split_seed": 1}):
        with pytest.raises(pytest.fail.Exception):
            module(Given(TEXTS, label=labels), tmp_path, **change).prepare()
    with pytest.raises(pytest.fail.Exception):
        module(Given(["other", *TEXTS[1:]], label=labels), tmp_path).prepare()
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_made_anew(tmp_path, caplog, damage):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "x" / "rows.safetensors"

    def make():
        return make_rows([[1, 2, 3], [4]], [7, 9], [2, 0], types=[[0, 0, 1], [0]])

    cached_rows(path, make)
    assert not caplog.records
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-9] ^= 4
    path.write_bytes({"cut": content[:-5], "flip": content, "empty": b"", "other": b"{}" * 40}[damage])
    rows = cached_rows(path, make)
    assert "tokenised anew" in caplog.text
    assert rows.tokens.tolist() == [1, 2, 3, 4]
    assert (rows.samples.tolist(), rows.prompts.tolist()) == ([7, 9], [2, 0])
    assert rows.columns["types"].tolist() == [0, 0, 1, 0]
    cached_rows(path, lambda: pytest.fail("made again"))


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    rows = cached_rows(tmp_path / "file" / "rows.safetensors", lambda: make_rows([[1]], [0]))
    assert rows.tokens.tolist() == [1]
    assert "stay in memory" in caplog.text


@given(st.lists(st.integers(1, 32), min_size=1, max_size=60))
def test_packing_loses_nobody_and_never_overflows(lengths):
    rows = pack(lengths, 32)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 32 for row in rows)
    assert rows == pack(lengths, 32)
    # Best fit: no two rows would fit into one.
    sizes = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(sizes) == 1 or sizes[0] + sizes[1] > 32


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompts", [False, True])
def test_targets_never_cross_a_boundary(tmp_path, side, prompts):
    texts = ["abc"[: 1 + i % 3] + str(i) for i in range(60)]
    prompt = ["q" * (1 + i % 4) for i in range(60)] if prompts else None
    options = {"task": "causal_lm", "max_length": 32, "padding_side": side, "test_fraction": 0.0, "val_fraction": 0.0}
    plain = module(Given(texts, prompt=prompt), tmp_path, **options)
    packed = module(Given(texts, prompt=prompt), tmp_path, packing=True, **options)
    assert packed.facts == plain.facts
    assert packed.num_samples < plain.num_samples / 2
    expected = sorted((row["input_ids"], row["target"]) for row in everything(plain))
    found = []
    for row in everything(packed):
        segments = torch.tensor(row["segment_ids"])
        assert segments[0] == 1
        assert bool((segments.diff() >= 0).all())
        for number in range(1, int(segments.max()) + 1):
            inside = (segments == number).nonzero().squeeze(1).tolist()
            assert [row["position_ids"][i] for i in inside] == list(range(len(inside)))
            found.append(([row["input_ids"][i] for i in inside], [row["target"][i] for i in inside]))
    assert sorted(found) == expected
    batch = next(iter(packed.loader("train", train=True)))
    assert "prompt_length" not in batch
    padding = batch["attention_mask"] == 0
    assert (batch["segment_ids"][padding] == 0).all()
    assert (batch["target"][padding] == -100).all()
