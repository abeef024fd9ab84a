"""Shards: whole or absent, checked, and only of what they say."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.cache.shards import DamagedShardError, open_shard, remove_leftovers, write_shard

IDENTITY = {"store": "abc", "signal": "logits", "view": "0", "start": "0"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64, torch.bool])
def test_what_is_written_is_read(tmp_path, dtype):
    rows = (torch.randn(7, 2, 3) * 5).to(dtype)
    write_shard(tmp_path / "a" / "x.safetensors", rows, IDENTITY)
    assert torch.equal(open_shard(tmp_path / "a" / "x.safetensors", IDENTITY), rows)
    assert torch.equal(load_file(tmp_path / "a" / "x.safetensors")["rows"], rows)  # readable without us
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.safetensors"]


def damage_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: damage_byte(path, -1),
        lambda path: damage_byte(path, path.read_bytes().index(b"sha256") + 12),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
    ],
    ids=["last byte", "checksum", "truncated", "empty", "other"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    write_shard(path, torch.randn(7, 3), IDENTITY)
    open_shard(path, IDENTITY)
    damage(path)
    with pytest.raises(DamagedShardError, match=r"x\.safetensors is damaged"):
        open_shard(path, IDENTITY)


@pytest.mark.parametrize("key", sorted(IDENTITY))
def test_a_file_of_something_else_is_refused(tmp_path, key):
    write_shard(tmp_path / "x", torch.zeros(2), IDENTITY)
    with pytest.raises(DamagedShardError, match=f"belongs to something else: its {key} differs"):
        open_shard(tmp_path / "x", {**IDENTITY, key: "other"})


def test_the_checksum_is_verified_once_in_a_process(tmp_path, monkeypatch):
    path, calls = tmp_path / "x", []
    write_shard(path, torch.randn(7, 3), IDENTITY)
    original = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *args: calls.append(1) or original(*args))
    open_shard(path, IDENTITY)
    open_shard(path, IDENTITY)
    assert len(calls) == 1


def test_leftovers_of_dead_writers_are_removed_and_those_of_others_are_not(tmp_path):
    host = os.uname().nodename
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    parts = {owner: tmp_path / f".x.safetensors.{owner}.part" for owner in (f"{host}.{int(dead.stdout)}",)}
    parts |= {owner: tmp_path / f".x.safetensors.{owner}.part" for owner in (f"{host}.{os.getpid()}", "elsewhere.1")}
    for part in parts.values():
        part.write_text("half")
    remove_leftovers(tmp_path)
    assert [part.exists() for part in parts.values()] == [False, True, True]
