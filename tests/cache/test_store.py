"""Shards and stores: whole or absent, checked, mapped, written by several."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from kd_lightning.cache import store as store_module
from kd_lightning.cache.fill import NotStorableError, fill
from kd_lightning.cache.shards import DamagedShardError, write_shard
from kd_lightning.cache.store import Place, Signal, Store, StoredSignals
from tests.cache.test_shards import damage_byte


def signal_of(shape=(5,), stored=torch.float16, name="logits"):
    return Signal(name, shape, stored, torch.float32)


def value(index, view, width=5):
    """What the teacher would give: a function of sample and view."""
    return torch.stack([index * 10.0 + view + k / 8 for k in range(width)], dim=1)


def replay(draws):
    for draw in draws:
        yield {"index": torch.tensor(draw.positions), "view": draw.view}


def forward(batch):
    return {"logits": value(batch["index"], batch["view"])}


def filled(root, samples=10, views=2, signal=None, forward=forward):
    store, signal = Store(root, {"teacher": 1}, samples), signal or signal_of()
    fill(store, store.faults([signal], views), forward, replay, batch_size=4)
    return store, signal


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_ROWS", 4)


# -- the layout of a store


def test_shards_are_powers_of_two_within_the_limits():
    for shape in ((1,), (3,), (100,), (1000, 7, 7), (2048, 32, 32), (10**8,), ()):
        rows = signal_of(shape).shard_rows
        assert rows & (rows - 1) == 0
        assert 1 <= rows <= store_module.SHARD_ROWS
        assert rows == 1 or rows * signal_of(shape).row_bytes <= store_module.SHARD_BYTES


def test_every_fact_is_in_the_key(tmp_path):
    facts = {"weights": "a", "augmentation": [["crop", 4]], "seed": 0}
    same = Store(tmp_path, {"seed": 0, "weights": "a", "augmentation": [("crop", 4)]}, 10)
    assert same.key == Store(tmp_path, facts, 10).key
    for change in ({"weights": "b"}, {"augmentation": [["crop", 3]]}, {"seed": 1}, {"new": None}):
        assert Store(tmp_path, {**facts, **change}, 10).key != same.key


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("samples", [1, 3, 4, 9, 13])
def test_rows_come_back_by_sample_and_view(tmp_path, samples):
    store, signal = filled(tmp_path, samples, views=3)
    assert not store.faults([signal], 3)
    generator = torch.Generator().manual_seed(0)
    for view in (2, 0, 1, 2):
        index = torch.randint(0, samples, (6,), generator=generator)
        assert torch.equal(store.rows(signal, view, index), value(index, view).half())


@pytest.mark.usefixtures("small_shards")
def test_what_is_absent_is_named(tmp_path):
    store, signal = filled(tmp_path, 10, views=1)
    with pytest.raises(FileNotFoundError, match="00001/000000004"):
        store.rows(signal, 1, torch.tensor([5]))
    assert {place.view for place in store.faults([signal], 3)} == {1, 2}
    other = signal_of(name="fc:in")
    assert {place.signal for place in store.faults([signal, other], 1)} == {other}


@pytest.mark.usefixtures("small_shards")
def test_signals_of_other_sizes_share_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_BYTES", 40)
    small, large = signal_of(), signal_of((5, 2), name="map")
    assert (small.shard_rows, large.shard_rows) == (4, 2)
    store, seen = Store(tmp_path, {}, 11), []

    def both(batch):
        seen.extend((batch["view"], i) for i in batch["index"].tolist())
        logits = value(batch["index"], batch["view"])
        return {"logits": logits, "map": torch.stack([logits, -logits], dim=2)}

    fill(store, store.faults([small, large], 2), both, replay, batch_size=3)
    assert sorted(seen) == [(view, i) for view in (0, 1) for i in range(11)]
    index = torch.tensor([10, 0, 7, 3])
    assert torch.equal(store.rows(large, 1, index)[..., 1], -value(index, 1).half())
    # One file lost: only its rows are computed again.
    store.path(Place(large, 1, 6)).unlink()
    seen.clear()
    fill(store, store.faults([small, large], 2), both, replay, batch_size=3)
    assert seen == [(1, 6), (1, 7)]


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_file_is_written_anew(tmp_path):
    store, signal = filled(tmp_path)
    path = store.path(Place(signal, 1, 4))
    damage_byte(path, -3)
    assert list(store.faults([signal], 2)) == [Place(signal, 1, 4)]
    with pytest.raises(DamagedShardError, match=str(path)):
        store.rows(signal, 1, torch.tensor([4]))
    filled(tmp_path)
    assert torch.equal(store.rows(signal, 1, torch.tensor([4])), value(torch.tensor([4]), 1).half())


def test_values_that_do_not_fit_the_type_are_refused(tmp_path):
    with pytest.raises(NotStorableError, match=r"'logits' reaches 1e\+06, too large for float16.*cache_dtype=bf16"):
        filled(tmp_path, forward=lambda batch: {"logits": value(batch["index"], 0) + 1e6})
    infinite = {"logits": torch.full((10, 5), -torch.inf)}  # a masked class is no overflow
    store, signal = filled(tmp_path, forward=lambda batch: {"logits": infinite["logits"][batch["index"]]})
    assert store.rows(signal, 0, torch.tensor([1])).isneginf().all()


def test_rows_of_changing_shape_are_refused(tmp_path):
    with pytest.raises(NotStorableError, match=r"shape \(6,\) here and \(5,\) before"):
        filled(tmp_path, forward=lambda batch: {"logits": value(batch["index"], 0, 6)})


def test_entries_of_a_batch(tmp_path):
    store, signal = filled(tmp_path)
    index = torch.tensor([3, 1])
    got = StoredSignals(store, {"logits": signal}, "teacher")(index, 1)
    assert list(got) == ["teacher/logits"]
    assert torch.equal(got["teacher/logits"], value(index, 1).half())
    one = StoredSignals(store, {"logits": signal}, "teacher", one_view=True)(index, 17)
    assert torch.equal(one["teacher/logits"], value(index, 0).half())


def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the kinds of memory apart")
def test_random_reads_copy_rows_and_not_the_shard(tmp_path):
    signal = Signal("x", (64, 16, 16), torch.float16, torch.float32)
    store = Store(tmp_path, {}, signal.shard_rows)
    assert signal.shard_rows * signal.row_bytes == store_module.SHARD_BYTES  # 64 MiB
    place = Place(signal, 0, 0)
    write_shard(store.path(place), torch.ones(signal.shard_rows, *signal.shape).half(), store.identity(place))
    store.rows(signal, 0, torch.tensor([0]))
    before = anonymous_kb()
    for _ in range(20):
        rows = store.rows(signal, 0, torch.randint(0, signal.shard_rows, (16,)))
    assert rows.shape == (16, 64, 16, 16)
    assert anonymous_kb() - before < 8 * 1024
    where = store._shard(place).data_ptr()
    spans = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    inside = [s[-1] for s in spans if int(s[0].split("-")[0], 16) <= where < int(s[0].split("-")[1], 16)]
    assert inside == [str(store.path(place))]


# -- stopped, and several at once


def write_forked(root, pause, start, computed):
    """A writer in a process of its own, as slow as a teacher."""
    torch.set_num_threads(1)
    store, signal = Store(root, {"teacher": 1}, 40), signal_of()

    def slow(batch):
        time.sleep(pause)
        computed.value += len(batch["index"])
        return forward(batch)

    start.wait()
    fill(store, store.faults([signal], 3), slow, replay, batch_size=4)


@pytest.fixture
def writers():
    """Start writers in processes of their own."""
    context, started = multiprocessing.get_context("fork"), []

    def start(root, pause, number):
        barrier = context.Barrier(number)
        for _ in range(number):
            computed = context.Value("i", 0)
            process = context.Process(target=write_forked, args=(root, pause, barrier, computed))
            process.start()
            started.append((process, computed))
        return started

    yield start
    for process, _ in started:
        process.kill()
        process.join()


@pytest.mark.usefixtures("small_shards")
def test_two_processes_at_once_share_the_work(tmp_path, writers):
    both = writers(tmp_path, 0.02, 2)
    for process, _ in both:
        process.join(60)
        assert process.exitcode == 0
    assert 120 <= sum(computed.value for _, computed in both) < 180  # three views of 40, few of them twice
    store, signal, index = Store(tmp_path, {"teacher": 1}, 40), signal_of(), torch.arange(40)
    assert not store.faults([signal], 3)
    assert all(torch.equal(store.rows(signal, view, index), value(index, view).half()) for view in range(3))


@pytest.mark.usefixtures("small_shards")
def test_a_killed_writer_leaves_whole_shards_and_the_next_one_does_the_rest(tmp_path, writers):
    [(process, _)] = writers(tmp_path, 0.02, 1)
    store, signal, index = Store(tmp_path, {"teacher": 1}, 40), signal_of(), torch.arange(40)
    while len(list(store.folder.rglob("*.safetensors"))) < 5:
        time.sleep(0.005)
    process.kill()
    process.join()
    left, seen = store.faults([signal], 3), []
    assert 0 < len(left) <= 25
    assert all(why.startswith("There is no") for why in left.values())
    fill(store, left, lambda batch: seen.append(len(batch["index"])) or forward(batch), replay, batch_size=4)
    assert sum(seen) == 4 * len(left)
    assert not list(store.folder.rglob("*.part"))
    assert all(torch.equal(store.rows(signal, view, index), value(index, view).half()) for view in range(3))
