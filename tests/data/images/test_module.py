"""The data module."""

import logging
from types import SimpleNamespace

import pytest
import torch

from kd_lightning.data.arrays import Arrays, fingerprint
from kd_lightning.data.images.augment import HorizontalFlip, RandomCrop
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.digits import Digits
from kd_lightning.data.images.sources.synthetic import Synthetic
from kd_lightning.data.images.sources.tensors import Tensors


class Given:
    """A source of what the test gives."""

    def __init__(self, inputs, targets, **kwargs):
        self.args, self.kwargs, self.loads = (inputs, targets, fingerprint(inputs, targets)), kwargs, 0

    def load(self):
        self.loads += 1
        return Arrays(*self.args, **self.kwargs)


def images(n=60, channels=3, size=(8, 8), classes=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    return Given(x, torch.arange(n) % classes)


def features(n=200, width=3, **kwargs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 1000.0, -5.0])
    return Given(x, torch.arange(n) % 5, **kwargs)


def test_facts_are_known_after_prepare():
    module = KDDataModule(images(size=(8, 6)), val_fraction=0.1, test_fraction=0.2)
    module.prepare()
    assert (module.num_classes, module.channels, module.image_size) == (4, 3, (8, 6))
    assert module.num_samples == len(module.split.train) == 42
    assert module.class_names == ("0", "1", "2", "3")
    assert module.fingerprint == module.source.args[2]
    assert module.task.name == "classification"
    assert len(module.mean) == len(module.std) == 3


def test_the_source_is_read_once():
    source = images()
    module = KDDataModule(source)
    module.prepare_data()
    module.setup("fit")
    module.prepare()
    list(module.train_dataloader())
    assert source.loads == 1


def test_mean_and_deviation_are_of_the_training_split():
    module = KDDataModule(features(n=1000), test_fraction=0.3)
    module.prepare()
    train = module.source.args[0][module.split.train].double()
    torch.testing.assert_close(torch.tensor(module.mean).double(), train.mean(0))
    torch.testing.assert_close(torch.tensor(module.std).double(), train.std(0, correction=0))
    assert module.image_size is None
    normal = torch.cat([module.ready(batch)["image"] for batch in module.loader("train")])
    torch.testing.assert_close(normal.mean(0), torch.zeros(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(normal.std(0, correction=0), torch.ones(3), atol=2e-3, rtol=0)


def test_configured_statistics_win_over_published_ones():
    published = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    module = KDDataModule(features(**published))
    module.prepare()
    assert (module.mean, module.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    module = KDDataModule(features(**published), mean=[0, 0, 0], std=[1, 1, 2])
    module.prepare()
    assert (module.mean, module.std) == ((0, 0, 0), (1, 1, 2))


def test_a_constant_feature_stays_finite():
    x = torch.randn(50, 2)
    x[:, 1] = 3.7
    module = KDDataModule(Given(x, torch.arange(50) % 2))
    batch = module.ready(next(iter(module.loader("test"))))
    assert batch["image"][:, 1].abs().max() < 1e-5


def test_an_evaluation_batch():
    module = KDDataModule(images(), mean=[0.5] * 3, std=[0.25] * 3, eval_batch_size=5, augment=[HorizontalFlip(1.0)])
    raw = next(iter(module.test_dataloader()))
    batch = module.ready(raw)
    assert set(batch) == {"image", "target", "index"}
    x, y, _ = module.source.args
    pool = module.split.test[:5]
    torch.testing.assert_close(batch["image"], (x[pool].float() / 255 - 0.5) / 0.25)
    assert batch["target"].tolist() == y[pool].tolist()
    assert batch["index"].tolist() == [0, 1, 2, 3, 4]
    assert raw["image"].dtype == torch.uint8


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_index_is_the_position_in_the_split(split):
    module = KDDataModule(images(), eval_batch_size=4)
    index = torch.cat([batch["index"] for batch in module.loader(split)])
    assert index.tolist() == list(range(len(module.split[split])))
    targets = torch.cat([batch["target"] for batch in module.loader(split)])
    assert torch.equal(targets, module.targets(split))


def test_samples_are_read_by_index():
    module = KDDataModule(images(), batch_size=8)
    batch = next(iter(module.train_dataloader()))
    assert torch.equal(module.read("train", batch["index"]), batch["image"])


def test_training_batches_are_augmented_by_epoch_and_sample():
    module = KDDataModule(images(), augment=[RandomCrop(2), HorizontalFlip()], batch_size=8)
    other = KDDataModule(images(), augment=[RandomCrop(2), HorizontalFlip()], batch_size=5)
    seen = {}
    for name, data in (("a", module), ("b", other)):
        loader = data.train_dataloader()
        for epoch in (3, 4):
            loader.sampler.set_epoch(epoch)
            for batch in map(data.ready, loader):
                assert batch["view"] == epoch
                for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                    seen[name, epoch, index] = image
    common = [key for key in seen if key[0] == "a" and ("b", *key[1:]) in seen]
    assert len(common) > 70
    assert all(torch.equal(seen[key], seen["b", *key[1:]]) for key in common)
    same = [
        torch.equal(seen["a", 3, i], seen["a", 4, i]) for i in range(42) if ("a", 3, i) in seen and ("a", 4, i) in seen
    ]
    assert sum(same) < len(same) / 4


def test_seed_changes_order_and_augmentation_but_not_the_split():
    a, b = (KDDataModule(images(), augment=[RandomCrop(2)], seed=seed) for seed in (0, 1))
    assert torch.equal(a.split.train, b.split.train)
    first, second = (next(iter(module.train_dataloader())) for module in (a, b))
    assert not torch.equal(first["index"], second["index"])
    assert not torch.equal(a.ready(first)["image"], b.ready(first)["image"])
    assert not torch.equal(KDDataModule(images(), split_seed=1).split.train, a.split.train)


def test_views_are_cycled_and_shared_by_all_orders():
    a, b = (KDDataModule(images(), augment=[RandomCrop(3)], views=2, batch_size=42) for _ in range(2))
    b.order_seed = 7
    first, second = a.train_dataloader(), b.train_dataloader()
    seen = {}
    for epoch in range(4):
        for loader, data in ((first, a), (second, b)):
            loader.sampler.set_epoch(epoch)
            batch = data.ready(next(iter(loader)))
            assert batch["view"] == epoch % 2
            images_by_index = batch["image"][batch["index"].argsort()]
            assert torch.equal(images_by_index, seen.setdefault(epoch % 2, images_by_index))
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(next(iter(first))["index"], next(iter(second))["index"])


@pytest.mark.parametrize("views", [0, -1, 1.5, "many", True])
def test_views_must_be_a_number_or_all(views):
    with pytest.raises(ValueError, match="from 1 on, or all"):
        KDDataModule(images(), views=views)
    assert KDDataModule(images(), views="all").num_views is None


def test_signals_join_training_batches_only():
    module = KDDataModule(images(), augment=[RandomCrop(3)], num_workers=1)
    module.signals = _double
    batch = next(iter(module.train_dataloader()))
    assert torch.equal(batch["double"], batch["index"] * 2)
    assert "double" not in next(iter(module.loader("train")))


def _double(index, view):
    return {"double": index * 2 + view}


def test_other_views():
    module = KDDataModule(images(), augment=[RandomCrop(2)], strong=[HorizontalFlip(1.0)])
    batch = module.ready(next(iter(module.train_dataloader())))
    same, other = module.views(batch, [batch["view"], 17])
    assert torch.equal(same, batch["image"])
    assert not torch.equal(other, same)
    strong = module.views(batch, [0], strong=True)[0]
    torch.testing.assert_close(strong, module.normalise(batch["raw"].float() / 255).flip(-1))


def test_weak_and_strong_draw_apart():
    module = KDDataModule(images(), augment=[RandomCrop(3)], strong=[RandomCrop(3)])
    batch = module.ready(next(iter(module.train_dataloader())))
    assert not torch.equal(module.views(batch, [batch["view"]], strong=True)[0], batch["image"])


def test_views_that_cannot_be():
    module = KDDataModule(images())
    train = module.ready(next(iter(module.train_dataloader())))
    with pytest.raises(ValueError, match=r"data\.strong is empty"):
        module.views(train, [0], strong=True)
    with pytest.raises(ValueError, match="no 'raw'"):
        module.views(module.ready(next(iter(module.test_dataloader()))), [0])


def trainer(device="cpu", **kwargs):
    return SimpleNamespace(training=False, strategy=SimpleNamespace(root_device=torch.device(device)), **kwargs)


def test_only_positions_travel_to_a_set_on_the_device():
    plain, resident = (
        KDDataModule(images(), augment=[RandomCrop(2)], batch_size=8, on_device=where) for where in (False, True)
    )
    for module in (plain, resident):
        module.trainer = trainer()
    for kind in ("train", "val", "test"):
        loaders = [getattr(module, f"{kind}_dataloader")() for module in (plain, resident)]
        for left, right in zip(*loaders, strict=True):
            assert set(right) == {"position", "index"} | ({"view"} if kind == "train" else set())
            left, right = plain.ready(left), resident.ready(right)
            assert left.keys() == right.keys()
            assert all(torch.equal(torch.as_tensor(left[key]), torch.as_tensor(right[key])) for key in left)
    # Labels that a teacher gives later are on the device too.
    resident.choose(torch.arange(10), labels=torch.full((10,), 3))
    assert resident.ready(next(iter(resident.train_dataloader())))["target"].tolist() == [3] * 8


@pytest.mark.parametrize(
    ("where", "device", "resident"), [("auto", "cpu", False), ("auto", "cuda", True), (False, "cuda", False)]
)
def test_a_gpu_keeps_a_small_set(monkeypatch, where, device, resident):
    module = KDDataModule(images(), batch_size=8, on_device=where)
    assert "image" in next(iter(module.train_dataloader()))  # nobody to take it from there
    module.trainer = trainer(device)
    assert ("position" in next(iter(module.train_dataloader()))) is resident
    assert "image" in next(iter(module.loader("test", whole=True)))
    monkeypatch.setattr("kd_lightning.data.images.module.SMALL", 100)
    assert "image" in next(iter(module.train_dataloader()))


def test_a_set_in_files_stays_there(tmp_path):
    with pytest.raises(ValueError, match="on_device must be true, false or auto, got 'gpu'"):
        KDDataModule(images(), on_device="gpu")
    pool = images()
    inputs, targets, mark = pool.args

    class Files:
        shape = inputs.shape
        read = staticmethod(lambda positions: inputs[positions])

        def __len__(self):
            return self.shape[0]

    module = KDDataModule(pool, mean=[0, 0, 0], std=[1, 1, 1], on_device=True)
    pool.args = (Files(), targets, mark)
    module.trainer = trainer("cuda")
    with pytest.raises(ValueError, match="read from files and cannot lie on a device"):
        module.train_dataloader()
    module.on_device = "auto"
    module.num_workers = 0
    assert "image" in next(iter(module.train_dataloader()))


def test_ranks_share_a_batch():
    alone = KDDataModule(images(), batch_size=8, eval_batch_size=9)
    ranks = []
    for rank in range(2):
        module = KDDataModule(images(), batch_size=8, eval_batch_size=9)
        module.trainer = trainer(distributed_sampler_kwargs={"num_replicas": 2, "rank": rank})
        ranks.append(module)
    shares = zip(*(module.train_dataloader() for module in ranks), strict=True)
    for one, (left, right) in zip(alone.train_dataloader(), shares, strict=True):
        assert len(left["index"]) == len(right["index"]) == 4
        assert torch.equal(torch.cat([left["index"], right["index"]]), one["index"])
        assert torch.equal(torch.cat([left["image"], right["image"]]), one["image"])
    tested = [batch["index"] for module in ranks for batch in module.test_dataloader()]
    assert torch.cat(tested).sort().values.tolist() == list(range(12))


def test_saved_split_is_given_back(tmp_path):
    module = KDDataModule(images(), split_seed=3)
    module.save_split(tmp_path)
    again = KDDataModule(images(), split_seed=9, split_file=str(tmp_path))
    assert torch.equal(again.split.train, module.split.train)
    assert again.split.fingerprint == module.split.fingerprint
    with pytest.raises(ValueError, match="made for other data"):
        KDDataModule(images(n=61), split_file=str(tmp_path)).prepare()


def test_official_splits_are_used_and_fractions_for_them_refused():
    module = KDDataModule(features(test=torch.arange(150, 200)), val_fraction=0.2)
    assert torch.equal(module.split.test, torch.arange(150, 200))
    assert len(module.split.validation) == 30
    with pytest.raises(ValueError, match=r"official split; remove data\.test_fraction=0\.3"):
        KDDataModule(features(test=torch.arange(150, 200)), test_fraction=0.3).prepare()


def test_no_validation_gives_no_loader():
    module = KDDataModule(images(), val_fraction=0, test_fraction=0)
    assert module.val_dataloader() == []
    assert module.test_dataloader() == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 3}, r"data\.num_classes=3, but .* has 4"),
        ({"channels": 1}, r"data\.channels=1, but .* has 3"),
        ({"image_size": 32}, r"data\.image_size=32, but .* has 8"),
        ({"image_size": [8, 9]}, r"data\.image_size=\[8, 9\], but .* has 8"),
        ({"mean": [0.5], "std": [0.5]}, "each of the 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 1]}, "above 0"),
        ({"mean": [0.5] * 3}, "both"),
        ({"val_fraction": 0.9, "test_fraction": 0.3}, "less than 1"),
    ],
)
def test_configuration_that_does_not_fit_the_data(kwargs, message):
    with pytest.raises(ValueError, match=message):
        KDDataModule(images(), **kwargs).prepare()


def test_square_sizes_may_be_written_either_way():
    KDDataModule(images(), image_size=[8, 8]).prepare()
    KDDataModule(images(), image_size=8).prepare()


def test_more_classes_may_be_configured_than_are_found():
    module = KDDataModule(images(), num_classes=9)
    module.prepare()
    assert (module.num_classes, len(module.class_names)) == (9, 9)
    with pytest.raises(ValueError, match="has 10"):
        KDDataModule(Digits(), num_classes=11).prepare()


def test_targets_beyond_the_class_names():
    with pytest.raises(ValueError, match="A target is 4, but there are only 2 classes"):
        KDDataModule(features(class_names=("a", "b"))).prepare()


def test_features_are_not_augmented():
    with pytest.raises(ValueError, match=r"data\.augment=\[\]"):
        KDDataModule(features(), augment=[HorizontalFlip()]).prepare()


def test_odd_shapes():
    with pytest.raises(ValueError, match=r"must be \(D,\) or \(C, H, W\)"):
        KDDataModule(Given(torch.zeros(9, 2, 2), torch.arange(9) % 2)).prepare()


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (["digits"], {}, r"data\.source must have load"),
        ([Digits()], {"augment": [{"padding": 4}]}, "_target_"),
        ([Digits()], {"eval_batch_size": 0}, "eval_batch_size"),
    ],
)
def test_bad_arguments(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        KDDataModule(*args, **kwargs)


def test_global_batch_must_be_shared_evenly():
    module = KDDataModule(images(), batch_size=9)
    module.trainer = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": 0}, training=False)
    with pytest.raises(ValueError, match="multiple of 2"):
        module.train_dataloader()


def test_sizes_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="kd_lightning"):
        KDDataModule(Synthetic(samples=100), name="made").prepare()
    assert "made: 70 train, 10 validation, 20 test, 10 classes" in caplog.text


class OfItsOwn:
    """An op that draws from everybody's random numbers."""

    def __call__(self, images, random):
        return images + torch.rand(1)


class Halves:
    """Gives half of the pictures."""

    def __call__(self, images, random):
        return images[:1]


def transforms(version):
    """Transforms of torchvision."""
    from torchvision import transforms
    from torchvision.transforms import v2

    return {"v1": transforms.RandomHorizontalFlip(), "v2": v2.RandomErasing(), "v2 plain": v2.Normalize([0.5], [0.5])}[
        version
    ]


@pytest.mark.parametrize("key", ["augment", "strong"])
@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("v1", r"RandomHorizontalFlip is no op .*takes \(images, random\)"),
        ("v2", r"RandomErasing is no op: .*it makes tuple.*transforms of torchvision are none"),
        ("v2 plain", r"Normalize is no op"),
        (OfItsOwn(), r"OfItsOwn draws random numbers of its own"),
        (Halves(), r"Halves is no op: of pictures \(2, .*it makes \(1, "),
        (RandomCrop(40, "reflect"), r"RandomCrop does not fit pictures of 32 x 32 pixels"),
    ],
    ids=["v1", "v2", "v2 plain", "random", "halves", "reflect"],
)
def test_what_is_no_op_is_refused_before_any_training(key, op, message):
    op = transforms(op) if isinstance(op, str) else op
    with pytest.raises(ValueError, match=f"data.{key}: .*{message}"):
        KDDataModule(Synthetic(samples=100, channels=1), **{key: [op]}).prepare()


def test_a_class_of_the_test_that_is_never_trained_is_refused(tmp_path):
    import numpy as np

    x, y = np.zeros((40, 2), np.float32), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y % 2, test_x=x, test_y=y)
    with pytest.raises(ValueError, match=r"a: the test split has classes that never occur in training: 2, 3\."):
        KDDataModule(Tensors("a.npz", root=str(tmp_path)), name="a").prepare()
