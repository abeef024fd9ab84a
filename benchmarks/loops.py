"""Training loops by hand, to compare with: the bare one, the public style, and the optimum. All distil with CE + KD."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models import resnet
from kd_lightning.models.compress.fold import fold_batchnorm

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
TEMPERATURE, CE, KD = 4.0, 0.1, 0.9


@dataclass
class Job:
    """What is trained on what.

    Attributes:
        teacher: Name of a CIFAR ResNet.
        student: The same.
        images: (N, 3, H, W) uint8.
        targets: (N,) int64.
        batch: Samples a step.
        classes: Width of the output.
        lr: Learning rate.
    """

    teacher: str
    student: str
    images: Tensor
    targets: Tensor
    batch: int = 64
    classes: int = 100
    lr: float = 0.05

    def nets(self, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
        """Teacher (frozen, in eval mode) and student, the same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = [getattr(resnet, name)(num_classes=self.classes).to(device) for name in (self.teacher, self.student)]
        return made[0].eval().requires_grad_(False), made[1].train()

    def optimizer(self, student: nn.Module, **options: Any) -> torch.optim.Optimizer:
        """SGD as the recipes have it."""
        return torch.optim.SGD(student.parameters(), self.lr, momentum=0.9, weight_decay=5e-4, **options)


def synthetic(samples: int = 1280, size: int = 32, classes: int = 100) -> tuple[Tensor, Tensor]:
    """CIFAR-shaped images and targets."""
    from kd_lightning.data.images.sources.synthetic import Synthetic

    arrays = Synthetic(samples, classes, 3, size).load()
    assert isinstance(arrays.inputs, Tensor)
    return arrays.inputs, arrays.targets


def kd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """0.1 cross-entropy + 0.9 KD at temperature 4, in float32."""
    student, teacher = student.float(), teacher.float()
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, 1),
        F.log_softmax(teacher / TEMPERATURE, 1),
        reduction="batchmean",
        log_target=True,
    )
    return CE * F.cross_entropy(student, target) + KD * TEMPERATURE**2 * soft


class PublicLoop:
    """As the public repositories write it: samples one by one through PIL, float32, live teacher, meters with item().

    Args:
        job: What is trained.
        workers: Processes of the DataLoader; 0 decodes in the loop.
        device: Where.
    """

    def __init__(self, job: Job, workers: int = 0, device: str = "cpu") -> None:
        from torch.utils.data import DataLoader
        from torchvision import transforms

        transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        self.loader = DataLoader(
            PILDataset(job, transform), job.batch, shuffle=True, num_workers=workers, drop_last=True
        )
        self.teacher, self.student = job.nets(device)
        self.opt = job.optimizer(self.student)
        self.device = device
        self.batches = forever(self.loader)
        self.seen, self.loss_sum, self.right = 0, 0.0, 0.0

    def step(self) -> None:
        """One step."""
        image, target = (t.to(self.device) for t in next(self.batches))
        logits = self.student(image)
        with torch.no_grad():
            teacher = self.teacher(image)
        loss = kd(logits, teacher, target)
        top = logits.topk(5, 1).indices == target[:, None]
        self.right += top[:, 0].float().sum().item() + 0 * top.any(1).float().sum().item()
        self.loss_sum += loss.item() * len(image)
        self.seen += len(image)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()


class PILDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """One sample at a time, through PIL, as torchvision's CIFAR does it."""

    def __init__(self, job: Job, transform: Any) -> None:
        self.images = job.images.permute(0, 2, 3, 1).numpy()
        self.targets = job.targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i])), self.targets[i]


def forever(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


class OptimumLoop:
    """By hand and without a framework: batched augmentation, channels-last, bf16, folded teacher or stored logits.

    Args:
        job: What is trained.
        cached: Take the teacher's logits from a table instead of running it.
        bf16: bfloat16 autocast.
        device: Where.
        folded: Fold the teacher's batch norms.
        channels_last: Memory format of images and nets.
        fused: The fused optimiser.
    """

    def __init__(
        self,
        job: Job,
        cached: bool = False,
        bf16: bool = True,
        device: str = "cpu",
        folded: bool = True,
        channels_last: bool = True,
        fused: bool = True,
    ) -> None:
        self.job, self.device, self.bf16 = job, device, bf16
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        teacher, student = job.nets(device)
        self.teacher = (fold_batchnorm(teacher) if folded else teacher).to(memory_format=self.format)
        self.teacher.requires_grad_(False)
        self.student = student.to(memory_format=self.format)
        self.opt = job.optimizer(self.student, fused=fused)
        # The images lie on the device, padded and channels-last, so that one gather crops them.
        self.pixels = F.pad(job.images, [4] * 4).permute(0, 2, 3, 1).contiguous().to(device)
        self.targets = job.targets.to(device)
        self.mean = torch.tensor(MEAN, device=device) * 255
        self.scale = 1 / (torch.tensor(STD, device=device) * 255)
        self.logits = torch.randn(len(job.targets), job.classes, device=device).half() if cached else None
        self.order, self.at = torch.randperm(len(job.targets), device=device), 0

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images (B, 3, H, W), targets and indices."""
        size, dev = self.job.batch, self.device
        if self.at + size > len(self.order):
            self.order, self.at = torch.randperm(len(self.order), device=dev), 0
        index = self.order[self.at : self.at + size]
        self.at += size
        height, width = self.pixels.shape[1] - 8, self.pixels.shape[2] - 8
        rows = torch.randint(0, 9, (size, 1), device=dev) + torch.arange(height, device=dev)
        columns = torch.randint(0, 9, (size, 1), device=dev) + torch.arange(width, device=dev)
        flip = torch.rand(size, 1, device=dev) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
        cut = self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        image = ((cut.float() - self.mean) * self.scale).permute(0, 3, 1, 2)
        return image.contiguous(memory_format=self.format), self.targets[index], index

    def step(self) -> None:
        """One step."""
        image, target, index = self.batch()
        with torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext():
            if self.logits is None:
                with torch.inference_mode():
                    teacher = self.teacher(image)
            else:
                teacher = self.logits[index]
            logits = self.student(image)
        loss = kd(logits, teacher, target)
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.opt.step()


class BareLoop:
    """The product's own objects (loader, augmentation, nets, precision) in a loop without Lightning or Distiller.

    What the product needs beyond this is what the framework costs.

    Args:
        job: What is trained.
        data: The product's data module, prepared.
        bf16: bfloat16 autocast.
        channels_last: Memory format.
        folded: Fold the teacher's batch norms, as the product does.
        fused: The fused optimiser.
    """

    def __init__(
        self,
        job: Job,
        data: Any,
        bf16: bool = False,
        channels_last: bool = False,
        folded: bool = True,
        fused: bool = True,
    ) -> None:
        self.data, self.bf16 = data, bf16
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        teacher, student = job.nets()
        self.teacher = (fold_batchnorm(teacher) if folded else teacher).to(memory_format=self.format)
        self.teacher.requires_grad_(False)
        self.student = student.to(memory_format=self.format)
        self.opt = job.optimizer(self.student, fused=fused)
        self.batches = forever(data.loader("train", train=True))

    def step(self) -> None:
        """One step."""
        batch = self.data.ready(next(self.batches))
        image = batch["image"].contiguous(memory_format=self.format)
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            logits = self.student(image)
            with torch.no_grad():
                teacher = self.teacher(image)
        loss = kd(logits, teacher, batch["target"])
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        self.opt.step()


def images_per_second(batch: int, seconds: float) -> int:
    """Rounded to three digits."""
    rate = batch / seconds
    return int(round(rate, 2 - math.floor(math.log10(rate))))
