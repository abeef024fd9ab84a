"""Methods on pairs of nets, composed as the command line does and assembled as the jobs do."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from kd_lightning.config.command import Command
from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.schema import Config, register
from kd_lightning.config.values import settings_of
from kd_lightning.core.distiller import Distiller
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.experiment.settle import settle
from kd_lightning.files.runs import register_resolvers
from kd_lightning.jobs.methods import method_infos
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import build_net, student_net
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.training import Training

# Teacher, student and their options; 32x32 images for all. The stride leaves ResNet-18 maps of more than one pixel.
PAIRS = {
    "cifar": ["model@teacher=resnet32x4", "model@student=resnet8x4"],
    "shuffle": ["model@teacher=resnet32x4", "model@student=shufflev2", "teacher.fold=false"],
    "vit": [
        "model@teacher=timm",
        "teacher.net.name=resnet18",
        "+teacher.net.output_stride=16",
        "model@student=vit_tiny",
    ],
}
TINY_DATA = [
    "data=synthetic",
    "data.source.samples=24",
    "data.image_size=32",
    "data.num_classes=4",
    "data.batch_size=4",
    "teacher.cache=off",
]
# Plain SGD: a parameter moves exactly where it has a gradient.
PLAIN = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0", "scheduler=constant"]

OTHER_TARGETS = ("multilabel_kd", "regression_kd", "smooth_l1")
VISION = [m["name"] for m in method_infos() if m["kind"] not in ("token", "transformer")]


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """The configuration of a command; not to be changed."""
    register()
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def config(pair: list[str], method: str) -> Config:
    """A pair's settings with a method; each is composed once."""
    cfg = copy.deepcopy(composed(*TINY_DATA, *PLAIN, *pair))
    cfg.method = composed(f"method={method}").method
    return settings_of(cfg)


@functools.cache
def shared_data() -> KDDataModule:
    """The data of every case."""
    return settle(Command(composed(*TINY_DATA))).data


@functools.cache
def _net(*pair: str) -> nn.Module:
    return build_net(settings_of(composed(*TINY_DATA, *PLAIN, *pair)).teacher, 0).eval()


def build(pair: list[str], method: str) -> Distiller:
    """The distiller of a method on a pair, as ``job=train`` builds it."""
    settings = config(pair, method)
    frozen = {name: copy.deepcopy(_net(*pair)) for name in asked_roles(settings)}
    return build_distiller(Training(settings, shared_data(), frozen), student_net(settings, frozen.get("teacher")))[0]


@dataclass
class Watch(pl.Callback):
    """What two epochs of one step did.

    Attributes:
        losses: The loss of every step.
        reached: Parameters that had a gradient other than 0 in some step.
        moved: Those of them for which some step was large enough for float32.
        changed: Parameters that some step changed.
        thawed: Entries of a frozen role's state that changed.
    """

    losses: list[Tensor] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    thawed: set[str] = field(default_factory=set)
    before: dict[str, Tensor] = field(default_factory=dict)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Distiller, optimizer: Any) -> None:
        rate = optimizer.param_groups[0]["lr"]
        self.before = {name: p.detach().clone() for name, p in pl_module.named_learnable()}
        for name, parameter in pl_module.named_learnable():
            if parameter.grad is not None and parameter.grad.count_nonzero():
                self.reached.add(name)
                if not torch.equal(parameter - rate * parameter.grad, parameter):
                    self.moved.add(name)

    def on_train_batch_end(self, trainer: Any, pl_module: Distiller, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"].detach())
        self.changed |= {name for name, p in pl_module.named_learnable() if not torch.equal(p, self.before[name])}


def train(module: Distiller, data: Any = None) -> Watch:
    """Two epochs of one step: schedules and stages that begin at nothing have begun."""
    frozen = [role.net for role in module.roles.by_name.values() if not role.trainable]
    states = [copy.deepcopy(net.state_dict()) for net in frozen]
    watch = Watch()
    torch.manual_seed(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    trainer.fit(module, **({"datamodule": shared_data()} if data is None else {"train_dataloaders": data}))
    for net, state in zip(frozen, states, strict=True):
        watch.thawed |= {name for name, value in net.state_dict().items() if not torch.equal(value, state[name])}
    return watch
