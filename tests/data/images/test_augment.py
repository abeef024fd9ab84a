"""Batched augmentation."""

import pytest
import torch

from kd_lightning.data.images.augment import (
    Augmentation,
    ColorJitter,
    Cutout,
    HorizontalFlip,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
)

OPS = [
    RandomCrop(3),
    RandomCrop(2, mode="reflect"),
    HorizontalFlip(),
    RandomAffine(20, 0.1, (0.8, 1.2)),
    RandomResizedCrop(),
    RandomResizedCrop(size=7),
    Cutout(4),
    ColorJitter(),
]
ALL = [op for op in OPS if op != OPS[5]]


def images(n=12, channels=3, height=10, width=14):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ops", [[op] for op in OPS] + [ALL], ids=lambda ops: "+".join(type(o).__name__ for o in ops))
def test_a_sample_is_augmented_alike_in_any_batch(ops):
    augment, x = Augmentation(ops, seed=1), images()
    index = torch.arange(100, 112)
    whole = augment(x, index, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    parts = torch.cat([augment(x[part], index[part], 4) for part in (order[:5], order[5:6], order[6:])])
    assert torch.equal(parts, whole[order])


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_view_seed_and_sample_change_the_augmentation(op):
    x, index = images(n=1).expand(12, -1, -1, -1), torch.arange(12)
    first = Augmentation([op], 1)(x, index, 0)
    assert not torch.equal(first, Augmentation([op], 1)(x, index, 1))
    assert not torch.equal(first, Augmentation([op], 2)(x, index, 0))
    assert len({tuple(sample.flatten().tolist()) for sample in first}) > 1


@pytest.mark.parametrize("op", OPS, ids=repr)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shape_range_and_input_are_kept(op, channels):
    x = images(channels=channels)
    before = x.clone()
    out = Augmentation([op], 0)(x, torch.arange(12), 0)
    size = (7, 7) if getattr(op, "size", None) == 7 else (10, 14)
    assert out.shape == (12, channels, *size)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(x, before)


def test_every_op_draws_for_itself():
    """Were the numbers of two flips the same, the second would undo the first for every sample."""
    x = images(n=64)
    twice = Augmentation([HorizontalFlip(), HorizontalFlip()], 0)(x, torch.arange(64), 0)
    assert not torch.equal(twice, x)


def test_views_may_differ_within_a_batch():
    augment, x, index = Augmentation(ALL, 0), images(), torch.arange(12)
    views = torch.tensor([3, 8] * 6)
    mixed = augment(x, index, views)
    assert torch.equal(mixed[::2], augment(x, index, 3)[::2])
    assert torch.equal(mixed[1::2], augment(x, index, 8)[1::2])


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop_is_one_of_the_windows_of_the_padded_image(mode):
    x = images(n=300, channels=2, height=5, width=4)
    out = Augmentation([RandomCrop(2, mode)], 0)(x, torch.arange(300), 0)
    padded = torch.nn.functional.pad(x, [2] * 4, mode="constant" if mode == "zero" else mode)
    windows = padded.unfold(2, 5, 1).unfold(3, 4, 1)  # (300, 2, 5, 5, 5, 4)
    equal = (windows == out[:, :, None, None]).all(dim=(1, 4, 5))
    places = equal.flatten(1).float()
    assert (places.sum(1) == 1).all()
    assert (places.sum(0) > 2).all()  # every one of the 25 places occurs


def test_flip_mirrors_about_half():
    x = images(n=1000, channels=1, height=2, width=3)
    out = Augmentation([HorizontalFlip(0.3)], 0)(x, torch.arange(1000), 0)
    flipped = (out == x.flip(-1)).flatten(1).all(1)
    same = (out == x).flatten(1).all(1)
    assert (flipped ^ same).all()
    assert 0.25 < flipped.float().mean() < 0.35
    assert torch.equal(Augmentation([HorizontalFlip(0.0)], 0)(x, torch.arange(1000), 0), x)
    assert torch.equal(Augmentation([HorizontalFlip(1.0)], 0)(x, torch.arange(1000), 0), x.flip(-1))


def test_affine_without_change_is_the_identity():
    x = images()
    torch.testing.assert_close(Augmentation([RandomAffine(0)], 0)(x, torch.arange(12), 0), x)


def test_affine_rotates_in_pixels_also_where_the_image_is_not_square():
    """A quarter turn of a non-square image shows what the centre square, turned, shows."""
    x = images(n=1, channels=1, height=4, width=8)
    op = RandomAffine(degrees=90)
    quarter = op(x, lambda draw: torch.tensor([1.0 if draw == 0 else 0.5]))
    centre = x[:, :, :, 2:6]
    expected = [torch.rot90(centre, k, (2, 3)) for k in (1, -1)]
    assert any(torch.allclose(quarter[:, :, :, 2:6], e, atol=1e-5) for e in expected)
    assert quarter[:, :, :, :2].abs().max() < 1e-4


def test_affine_shifts_by_a_share_of_the_size():
    x = images(n=1, height=8, width=8)
    right = RandomAffine(0, translate=0.125)(x, lambda draw: torch.tensor([1.0 if draw == 1 else 0.5]))
    torch.testing.assert_close(right[..., 1:], x[..., :-1])


def test_affine_magnifies():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 1
    out = RandomAffine(0, scale=(3.0, 3.0))(x, lambda draw: torch.tensor([0.5]))
    assert out.sum() > 5
    assert out[0, 0, 4, 4] == 1


def test_resized_crop_of_everything_is_the_identity():
    x = images(height=9, width=9)
    op = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(Augmentation([op], 0)(x, torch.arange(12), 0), x)


def test_resized_crop_stays_within_the_image():
    """A ramp shows where a crop lies and how large it is."""
    ramp = (torch.arange(32.0) / 31).expand(500, 1, 32, 32)
    out = Augmentation([RandomResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))], 0)(ramp, torch.arange(500), 0)
    row = out[:, 0, 16] * 31
    assert row.min() >= 0
    assert row.max() <= 31
    width = row[:, -2] - row[:, 1]
    torch.testing.assert_close(width, torch.full_like(width, 29 * 0.5), atol=0.3, rtol=0)
    assert row.mean(1).min() < 9
    assert row.mean(1).max() > 22


def test_cutout_fills_one_square():
    x = torch.ones(400, 2, 9, 9)
    out = Augmentation([Cutout(3, fill=0.25)], 0)(x, torch.arange(400), 0)
    area = (out == 0.25).flatten(1).sum(1) / 2
    assert area.max() == 9
    assert area.min() == 4  # a corner
    assert ((out == 0.25) | (out == 1)).all()


def test_jitter_without_strength_is_the_identity_and_grey_stays_grey():
    x = images()
    still = Augmentation([ColorJitter(0, 0, 0)], 0)(x, torch.arange(12), 0)
    torch.testing.assert_close(still, x)
    grey = images(channels=1).expand(-1, 3, -1, -1)
    out = Augmentation([ColorJitter()], 0)(grey, torch.arange(12), 0)
    torch.testing.assert_close(out[:, 0], out[:, 2])


@pytest.mark.parametrize(
    ("op", "kwargs"),
    [
        (RandomCrop, {"padding": -1}),
        (RandomCrop, {"mode": "wrap"}),
        (HorizontalFlip, {"p": 1.5}),
        (RandomAffine, {"degrees": -3}),
        (RandomAffine, {"scale": (1.2, 0.8)}),
        (RandomResizedCrop, {"scale": (0.0, 1.0)}),
        (RandomResizedCrop, {"scale": (0.5, 2.0)}),
        (RandomResizedCrop, {"ratio": (1.0,)}),
        (Cutout, {"size": 0}),
        (ColorJitter, {"contrast": 2.0}),
    ],
)
def test_bad_arguments_are_named(op, kwargs):
    with pytest.raises(ValueError, match=f"{op.__name__}.{next(iter(kwargs))}"):
        op(**kwargs)
