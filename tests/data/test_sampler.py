"""Order of samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_lightning.data.sampler import EpochBatchSampler


def joined(lists):
    return [item for part in lists for item in part]


def batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [draw.positions for draw in sampler]


def test_order_is_a_function_of_seed_and_epoch():
    first = batches(EpochBatchSampler(100, 10, seed=1), 3)
    used = EpochBatchSampler(100, 10, seed=1)
    batches(used, 7)
    assert batches(used, 3) == first
    assert batches(used, 4) != first
    assert batches(EpochBatchSampler(100, 10, seed=2), 3) != first
    assert sorted(joined(first)) == list(range(100))


def test_draws_carry_the_epoch_only_where_shuffled():
    sampler = EpochBatchSampler(10, 5)
    sampler.set_epoch(6)
    assert {draw.view for draw in sampler} == {6}
    assert {draw.view for draw in EpochBatchSampler(10, 5, shuffle=False)} == {None}


def test_evaluation_is_every_sample_in_order():
    sampler = EpochBatchSampler(10, 4, shuffle=False, drop_last=False)
    assert batches(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_ranks_share_every_global_batch(size, per_rank, world, train):
    size = max(size, world)
    kwargs = {"seed": 3, "shuffle": train, "drop_last": train}
    ranks = [EpochBatchSampler(size, per_rank * world, rank=r, world=world, **kwargs) for r in range(world)]
    shares = [batches(sampler, 2) for sampler in ranks]
    assert {len(share) for share in shares} == {len(ranks[0])}
    assert all(positions for share in shares for positions in share)
    together = [joined(parts) for parts in zip(*shares, strict=True)]
    alone = batches(EpochBatchSampler(size, per_rank * world, **kwargs), 2)
    if train:
        assert together == alone
        assert {len(part) for share in shares for part in share} == {per_rank} or size < per_rank * world
    else:
        assert joined(together) == joined(alone) == list(range(size))


def test_training_drops_a_partial_batch_but_not_the_only_one():
    assert [len(b) for b in batches(EpochBatchSampler(25, 10))] == [10, 10]
    assert [len(b) for b in batches(EpochBatchSampler(7, 10))] == [7]


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 50))
def test_skip_starts_the_next_iteration_later_and_only_that(size, batch_size, skipped):
    sampler = EpochBatchSampler(size, batch_size, drop_last=False)
    whole = batches(sampler, 1)
    sampler.skip(skipped)
    assert len(sampler) == len(whole)
    assert batches(sampler, 1) == whole[skipped:]
    assert batches(sampler, 1) == whole


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 10, "batch_size": 5, "world": 2}, "multiple of 2, such as 6"),
        ({"size": 10, "batch_size": 0}, "at least 1"),
        ({"size": 3, "batch_size": 4, "world": 4}, "fewer than 4 processes"),
        ({"size": 3, "batch_size": 4, "world": 2, "rank": 2}, "rank"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EpochBatchSampler(**kwargs)


def test_cannot_skip_backwards():
    with pytest.raises(ValueError, match="-1"):
        EpochBatchSampler(4, 2).skip(-1)


def test_buckets_hold_similar_lengths_and_lose_nobody():
    lengths = torch.randint(1, 200, (1003,), generator=torch.Generator().manual_seed(0))
    plain = EpochBatchSampler(1003, 8, seed=3)
    bucketed = EpochBatchSampler(1003, 8, seed=3, lengths=lengths)
    one, other = ([draw.positions for draw in sampler] for sampler in (plain, bucketed))
    assert len(one) == len(other) == 125
    assert {i for batch in one for i in batch} == {
        i for batch in other for i in batch
    }  # the same samples are left out, whatever their length

    def padding(batches):
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    assert padding(other) < 0.1 * padding(one)
    assert other == [draw.positions for draw in bucketed]
    bucketed.set_epoch(1)
    later = [draw.positions for draw in bucketed]
    assert {tuple(sorted(b)) for b in later}.isdisjoint(tuple(sorted(b)) for b in other)
    means = torch.tensor([[lengths[batch].float().mean() for batch in epoch[:50]] for epoch in (other, later)])
    assert not torch.equal(means[1], means[1].sort().values)  # short batches do not come first
    assert torch.corrcoef(means)[0, 1] < 0.9  # nor in the same places in every epoch


def test_buckets_are_shared_among_processes():
    lengths = torch.arange(40) % 7
    whole = [draw.positions for draw in EpochBatchSampler(40, 8, lengths=lengths)]
    shares = [[d.positions for d in EpochBatchSampler(40, 8, rank=r, world=2, lengths=lengths)] for r in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_weights_say_how_often_a_sample_is_drawn():
    weights = torch.tensor([1.0, 3.0] * 500)
    sampler = EpochBatchSampler(1000, 10, weights=weights)
    counts = torch.zeros(1000)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        for draw in sampler:
            counts.index_add_(0, torch.tensor(draw.positions), torch.ones(10))
    assert counts.sum() == 40_000
    assert 2.9 < counts[1::2].sum() / counts[::2].sum() < 3.1
