"""A training on text that is resumed within an epoch sees the batches that it would have seen; so do processes."""

import lightning.pytorch as pl
import pytest
import torch

from kd_lightning.data.text.sources.synthetic import SyntheticText
from tests.data.test_resume import Save, seen_by
from tests.data.text.given import module


class Recorder(pl.LightningModule):
    """Notes what it sees."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["index"].tolist(), batch["input_ids"].tolist()))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(tmp_path, callbacks=(), ckpt_path=None, workers=0):
    data = module(SyntheticText(60, "masked_lm"), tmp_path, task="masked_lm", num_workers=workers, batch_size=6)
    return seen_by(Recorder(), data, 2, callbacks, ckpt_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_equals_straight(tmp_path, workers):
    straight = fit(tmp_path, workers=workers)
    assert len(straight) == 14
    assert straight[0][2] != straight[7][2]
    for step in (3, 7, 10):
        path = tmp_path / f"{step}.ckpt"
        fit(tmp_path, [Save("on_train_batch_end", step, path)], workers=workers)
        assert fit(tmp_path, ckpt_path=path, workers=workers) == straight[step:]


def test_processes_share_the_batches(tmp_path):
    class Trainer:
        def __init__(self, rank):
            self.distributed_sampler_kwargs = {"num_replicas": 2, "rank": rank}
            self.training = False

    def indices(rank):
        data = module(SyntheticText(60, "embedding"), tmp_path, task="embedding", batch_size=8)
        if rank is not None:
            data.trainer = Trainer(rank)
        return [batch["index"].tolist() for batch in data.loader("train", train=True)]

    assert [a + b for a, b in zip(indices(0), indices(1), strict=True)] == indices(None)
