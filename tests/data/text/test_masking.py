"""Masks are a pure function of (seed, view, sample, place)."""

import pytest
import torch

from kd_lightning.data.text.masking import mask_tokens
from tests.data.text.given import module

TEXTS = ["the quick brown fox " * (1 + i % 9) for i in range(120)]


def masked(tmp_path, **kwargs):
    return module(list(TEXTS), tmp_path, task="masked_lm", max_length=180, batch_size=8, **kwargs)


def looks(data, epoch=0, split="train", train=True):
    """Sample -> what of it is shown and asked, without padding."""
    loader = data.loader(split, train=train)
    loader.sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            real = batch["attention_mask"][row].bool()
            found[index] = batch["input_ids"][row][real].tolist(), batch["target"][row][real].tolist()
            assert (batch["target"][row][~real] == -100).all()
    return found


def test_shares():
    ids = torch.arange(200_000).view(400, 500) % 1000 + 10
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, ::10] = False
    shown, target = mask_tokens(
        ids,
        maskable,
        torch.arange(400),
        seed=0,
        view=0,
        mask_token_id=5,
        random_ids=torch.arange(10, 1010),
        probability=0.15,
    )
    chosen = target != -100
    assert not chosen[:, ::10].any()
    assert torch.equal(target[chosen], ids[chosen])
    assert torch.equal(shown[~chosen], ids[~chosen])
    assert float(chosen[maskable].float().mean()) == pytest.approx(0.15, abs=0.004)
    assert float((shown[chosen] == 5).float().mean()) == pytest.approx(0.8, abs=0.015)
    assert float((shown[chosen] == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.012)
    random = shown[chosen & (shown != 5) & (shown != ids)]
    assert random.unique().numel() > 900
    assert random.min() >= 10


def test_special_tokens_are_never_asked_nor_put_in(tmp_path):
    for shown, target in looks(masked(tmp_path, mask_probability=0.9)).values():
        assert shown[0] == 257
        assert shown[-1] == 258
        assert target[0] == target[-1] == -100
        assert max(target) < 256
        assert not {256, 257, 258} & set(shown[1:-1])


def test_masks_change_with_the_view_and_not_with_the_company(tmp_path):
    plain = looks(masked(tmp_path))
    company = looks(masked(tmp_path, buckets=False, pad="max", padding_side="left"))
    both = plain.keys() & company.keys()
    assert len(both) > 70
    assert all(plain[i] == company[i] for i in both)
    later, seeded = looks(masked(tmp_path), epoch=1), looks(masked(tmp_path, seed=1))
    assert sum(plain[i] == later.get(i) for i in plain) < 5
    assert sum(plain[i] == seeded.get(i) for i in plain) < 5
    assert looks(masked(tmp_path, views=1), epoch=1).keys() & plain.keys()
    cycled = looks(masked(tmp_path, views=1), epoch=1)
    assert all(plain[i] == cycled[i] for i in plain.keys() & cycled.keys())


def test_evaluation_asks_always_the_same(tmp_path):
    data = masked(tmp_path)
    assert not data.one_view
    first, second = looks(data, 0, "validation", False), looks(data, 3, "validation", False)
    assert first == second
    assert any(t != -100 for _, target in first.values() for t in target)
