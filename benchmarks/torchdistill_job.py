"""The same distillation with torchdistill: its box, losses, meters and YAML. Runs in an environment of its own.

    python torchdistill_job.py config.yaml result.json

The steps of an epoch are those of torchdistill's image-classification example: box, meters with ``item()``, an
evaluation on validation after every epoch, a checkpoint where it is the best so far.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchdistill.common import yaml_util
from torchdistill.common.main_util import save_ckpt, set_seed
from torchdistill.core.distillation import get_distillation_box
from torchdistill.datasets.util import build_data_loader
from torchdistill.misc.log import MetricLogger, SmoothedValue

from kd_lightning.models import resnet

CPU = torch.device("cpu")


class ArrayImages(torch.utils.data.Dataset):
    """One split of an .npz file, sample by sample through PIL, as torchvision's CIFAR does it.

    Args:
        path: Has ``<split>_x`` (N, 3, H, W) uint8 and ``<split>_y``.
        split: train, val or test.
        transform: From PIL to a tensor.
    """

    def __init__(self, path, split, transform) -> None:
        arrays = np.load(path)
        self.images = np.ascontiguousarray(arrays[f"{split}_x"].transpose(0, 2, 3, 1))
        self.targets = arrays[f"{split}_y"].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), self.targets[i]


def train_one_epoch(box, log_freq: int) -> None:
    """The steps of an epoch."""
    meters = MetricLogger(delimiter="  ")
    meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    meters.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
    for image, target, extra in meters.log_every(box.train_data_loader, log_freq, "Epoch"):
        started = time.time()
        image, target = image.to(CPU), target.to(CPU)
        loss = box.forward_process(image, target, extra)
        box.post_forward_process(loss=loss)
        meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        meters.meters["img/s"].update(len(image) / (time.time() - started))
        if not math.isfinite(loss.item()):
            raise ValueError("loss is not finite")


@torch.inference_mode()
def accuracy(net, loader) -> float:
    """Top-1."""
    net.eval()
    right = 0
    for image, target in loader:
        right += (net(image).argmax(1) == target).sum().item()
    return right / len(loader.dataset)


def main(config_path: str, result_path: str) -> None:
    """Train and write seconds and accuracy."""
    logging.basicConfig(level=logging.WARNING)
    config = yaml_util.load_yaml_file(config_path)
    set_seed(config["seed"])
    nets = {name: getattr(resnet, config[name])(num_classes=config["num_classes"]) for name in ("teacher", "student")}
    nets["teacher"].load_state_dict(torch.load(config["teacher_weights"], weights_only=True))
    nets["teacher"].eval()
    box = get_distillation_box(
        nets["teacher"], nets["student"], config["datasets"], config["train"], CPU, None, False, 1
    )
    best, checkpoint = 0.0, Path(result_path).with_suffix(".ckpt")
    started = time.perf_counter(), time.process_time()
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        train_one_epoch(box, config["train"]["log_freq"])
        value = accuracy(nets["student"], box.val_data_loader)
        if value > best:
            best = value
            save_ckpt(nets["student"], box.optimizer, box.lr_scheduler, best, {}, str(checkpoint))
        box.post_epoch_process()
    seconds = {"wall": time.perf_counter() - started[0], "cpu": time.process_time() - started[1]}
    test = build_data_loader(config["datasets"]["test"], config["test"]["test_data_loader"], False)
    result = {**seconds, "top1": accuracy(nets["student"], test)}
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
