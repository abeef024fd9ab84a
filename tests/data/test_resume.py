"""A run that is resumed sees the batches that it would have seen."""

import warnings

import lightning.pytorch as pl
import pytest
import torch

from kd_lightning.data.images.augment import RandomCrop
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.synthetic import Synthetic

BATCHES = 5


class Recorder(pl.LightningModule):
    """Notes which samples it sees, how they look and where in the run."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        look = batch["image"].double().sum().item()
        self.seen.append((self.current_epoch, batch_idx, batch["view"], batch["index"].tolist(), look))
        return self.layer(batch["image"].mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Save(pl.Callback):
    """Saves after a step, at the end of an epoch, or as ModelCheckpoint does after validation."""

    def __init__(self, hook, step, path):
        self.step, self.path = step, path
        setattr(self, hook, self._save)

    def _save(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


def fit(workers, callbacks=(), ckpt_path=None):
    data = KDDataModule(
        Synthetic(samples=50, num_classes=2, channels=1, image_size=8),
        augment=[RandomCrop(2)],
        batch_size=7,
        num_workers=workers,
    )
    return seen_by(Recorder(), data, 3, callbacks, ckpt_path)


def seen_by(module, data, epochs, callbacks, ckpt_path):
    """What the module noted in a training that does nothing else."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module.seen


@pytest.fixture(scope="module")
def straight():
    seen = fit(0)
    assert [(epoch, batch, view) for epoch, batch, view, *_ in seen] == [
        (e, b, e) for e in range(3) for b in range(BATCHES)
    ]
    return seen


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 2),
        ("on_train_batch_end", BATCHES),
        ("on_train_batch_end", BATCHES + 3),
        ("on_validation_end", BATCHES),
        ("on_train_epoch_end", BATCHES),
        ("on_train_epoch_end", 2 * BATCHES),
    ],
)
def test_resumed_equals_straight(tmp_path, straight, hook, step, workers):
    path = tmp_path / "x.ckpt"
    fit(workers, [Save(hook, step, path)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not resumable")
        resumed = fit(workers, ckpt_path=path)
    assert resumed == straight[step:]


def test_workers_see_the_same(straight):
    assert fit(2) == straight
