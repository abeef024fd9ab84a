"""An arm: one net trained one way with one seed, kept in one folder. Teacher and students alike."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.trainer.states import TrainerStatus
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd_lightning.core.distiller import Distiller
from kd_lightning.data.arrays import plain_tensors
from kd_lightning.data.base import SplitDataModule
from kd_lightning.deploy.fake_quant import fake_quantise, without_fake_quant
from kd_lightning.jobs._assemble import build_distiller, build_net, build_trainer
from kd_lightning.jobs._energy import EnergyMeter
from kd_lightning.jobs._load import ARM
from kd_lightning.jobs._paper import BestOnTest, looks_on_test
from kd_lightning.jobs._predictions import Predictions, predict
from kd_lightning.launch import UserAbortError
from kd_lightning.models.language.lora import has_lora, merge_lora
from kd_lightning.models.registry import load_state, savable_state
from kd_lightning.runs import digest, write_json

log = logging.getLogger("kd_lightning")

# The parts of a configuration that decide what an arm becomes.
# fmt: off
_IDENTITY = (
    "student", "method", "optimizer", "scheduler", "callbacks", "metrics", "seed", "select", "protocol", "compile",
)
_TRAINER_IDENTITY = (
    "max_epochs", "max_steps", "precision", "strategy", "devices", "gradient_clip_val",
    "gradient_clip_algorithm", "accumulate_grad_batches", "deterministic", "limit_train_batches",
    "limit_val_batches", "sync_batchnorm", "channels_last", "ema",
)
# fmt: on
# Where and how the data is read, not what it is.
_DATA_PLACE = ("root", "num_workers", "on_device", "eval_batch_size", "source")


@dataclass
class FittedArm:
    """A finished arm.

    Attributes:
        folder: Where everything of it lies.
        net: The trained net with its selected weights, in eval mode, on the CPU.
        record: Contents of arm.json: metrics, seconds, fingerprint.
    """

    folder: Path
    net: nn.Module
    record: dict[str, Any]

    def predictions(self) -> dict[str, Tensor]:
        """``logits`` (N, C), ``target`` (N,), ``index`` (N,) on the test split."""
        return load_file(self.folder / "test.safetensors")


def arm_identity(cfg: DictConfig, data: SplitDataModule, teacher: nn.Module | None) -> str:
    """Hash of all that decides what the arm becomes: configuration, data, split, teacher's weights."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    plain["method"].pop("info", None)  # what is known about a method, not what it does
    trainer = {key: plain["trainer"][key] for key in _TRAINER_IDENTITY}
    settings = {key: value for key, value in plain["data"].items() if key not in _DATA_PLACE}
    weights = None if teacher is None else weights_hash(teacher)
    return digest([{key: plain[key] for key in _IDENTITY}, trainer, settings, data.split.fingerprint, weights])


def weights_hash(net: nn.Module) -> str:
    """Hash of a net's weights and buffers."""
    return digest([(name, hash_tensor(value)) for name, value in sorted(net.state_dict().items())])


def hash_tensor(value: Tensor) -> str:
    """Hash of a tensor's bytes."""
    import hashlib

    parts = plain_tensors(value)
    if parts[0] is not value:
        return digest([hash_tensor(part) for part in parts])
    return hashlib.sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def deployed_net(cfg: DictConfig, teacher: nn.Module | None = None) -> nn.Module:
    """The student as it is trained and shipped: the configured net, in the method's wrapper where it has one."""
    net = build_net(cfg.student, cfg.seed)
    if cfg.method.student_wrapper is not None:
        with torch.random.fork_rng():
            torch.manual_seed(cfg.seed)
            if teacher is None:  # for its shapes: weights come with the student's, or are made by its training
                teacher = instantiate(cfg.teacher.net)
            net = instantiate(cfg.method.student_wrapper)(net, teacher, _zeros(cfg))
    if not cfg.student.get("quantise"):
        return net
    if cfg.student.checkpoint is None:
        raise ValueError(
            "student.quantise=true refines a finished student: say which with student.checkpoint=<run>, and use a small"
            " optimizer.lr (a tenth or less of that of its training)."
        )
    return fake_quantise(net)


def _zeros(cfg: DictConfig) -> Tensor:
    """Two samples of the data's shape."""
    if cfg.data.get("image_size") is None:
        raise ValueError(f"method={cfg.method.name} builds its student for images; {cfg.data.name} has none.")
    return torch.zeros(2, cfg.data.channels, cfg.data.image_size, cfg.data.image_size)


def shipped(net: nn.Module) -> nn.Module:
    """The net without what only training needs, as it is measured and exported: a copy, or itself where it is plain."""
    net = without_fake_quant(net)
    return merge_lora(copy.deepcopy(net)) if has_lora(net) else net


def fit_arm(
    cfg: DictConfig,
    folder: Path,
    data: SplitDataModule,
    teacher: nn.Module | None = None,
    label: str = "student",
    kind: str = "distilled",
    trainings: int = 1,
) -> FittedArm:
    """Train, select, measure on test and save; or take what an earlier start already finished.

    Args:
        cfg: The arm's whole configuration: ``student`` is the net that learns, ``method`` how.
        folder: Where the arm lives.
        data: Prepared data.
        teacher: The teacher's net, where the method needs one.
        label: What the user reads.
        kind: ``teacher``, ``alone`` or ``distilled``.
        trainings: How many trainings of this command want the same of the teacher, for ``teacher.cache=auto``.
    """
    identity = arm_identity(cfg, data, teacher)
    net = deployed_net(cfg, teacher)
    done = _finished(folder, identity)
    if done is not None:
        log.info(f"{label}: finished earlier, taken from {folder}")
        load_state(net, load_file(folder / "student.safetensors"))
        return FittedArm(folder, net.eval(), done)

    if cfg.select == "best" and len(data.split.validation) == 0:
        raise ValueError(
            f"{cfg.data.name} has no validation split, so no weights can be chosen as best: set data.val_fraction=0.1,"
            " or select=last callbacks.checkpoint.monitor=null (and callbacks.early_stopping=null under teacher.fit)."
        )
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    distiller = build_distiller(cfg, data, net, teacher, trainings)
    distiller.train()  # Lightning leaves it as it is, and a checkpoint of transformers comes in evaluation mode
    log.info(f"{label}: training ...")
    for name, shapes in distiller.pairing:
        log.info(f"  {name}: " + ", ".join(f"{argument} {shape}" for argument, shape in shapes.items()))
    trainer = build_trainer(cfg, folder, label, kind)
    if cfg.protocol == "paper":
        trainer.callbacks.insert(0, BestOnTest(data))  # type: ignore[attr-defined]  # before those that save its state
    started = time.perf_counter()
    with EnergyMeter(gpu=trainer.strategy.root_device.type == "cuda") as energy:
        _fit(trainer, distiller, data, _resume_point(cfg, folder))
    seconds = time.perf_counter() - started
    states = _weights(trainer, net)
    arm = FittedArm(folder, net, {**_record(cfg, identity, trainer, seconds), "label": label, "kind": kind})
    # Of several trainings at once nobody can say which one spent it.
    arm.record["energy_joules"] = energy.joules if cfg.study.workers == 1 else None
    if trainer.is_global_zero:
        _measure_and_save(arm, cfg, data, states)
    trainer.strategy.barrier()
    net.load_state_dict(states[cfg.select])
    net.eval()
    return arm


def _finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The record of an arm that is complete and of the same identity."""
    try:
        record: dict[str, Any] = json.loads((folder / ARM).read_text())
    except (OSError, ValueError):
        return None
    return record if record.get("identity") == identity and (folder / "student.safetensors").is_file() else None


def _resume_point(cfg: DictConfig, folder: Path) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the newest that an interrupted start left."""
    if cfg.ckpt_path is not None:
        if not Path(cfg.ckpt_path).is_file():
            raise FileNotFoundError(f"ckpt_path={cfg.ckpt_path}: no such checkpoint.")
        return str(cfg.ckpt_path)
    left = [p for p in (folder / "checkpoints").glob("*.ckpt") if p.stem in ("last", "interrupted")]
    if not left:
        return None
    newest = max(left, key=lambda p: p.stat().st_mtime)
    log.info(f"  going on from {newest.name}")
    return str(newest)


def _fit(trainer: pl.Trainer, distiller: Distiller, data: SplitDataModule, ckpt_path: str | None) -> None:
    """Lightning's fit; an interruption from outside becomes ours, with its exit code."""
    try:
        trainer.fit(distiller, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as stop:
        code = 143 if trainer.received_sigterm else 130
        where = "resume=auto goes on from the checkpoint."
        raise UserAbortError(f"Stopped. {where}", code) from stop
    if trainer.state.status == TrainerStatus.INTERRUPTED:
        raise UserAbortError("Stopped. resume=auto goes on from the checkpoint.", 130)


def _weights(trainer: pl.Trainer, net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The student's weights: after the last step, and the best on validation."""
    last = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        return {"last": last, "best": last}
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "roles.trainable.student.net."
    return {"last": last, "best": {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}}


def _record(cfg: DictConfig, identity: str, trainer: pl.Trainer, seconds: float) -> dict[str, Any]:
    monitored = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return {
        "identity": identity,
        "model": cfg.student.name,
        "method": cfg.method.name,
        "seed": cfg.seed,
        "selected": cfg.select,
        "epochs": trainer.current_epoch,
        "train_seconds": round(seconds, 2),
        "validation": {cfg.metrics.monitor: None if monitored is None else round(float(monitored), 6)},
        "test": looks_on_test(trainer),
    }


def _measure_and_save(
    arm: FittedArm, cfg: DictConfig, data: SplitDataModule, states: Mapping[str, dict[str, Tensor]]
) -> None:
    """Measure last and best on test, save the selected weights and their predictions; arm.json comes last."""
    call = instantiate(cfg.student.call)
    predictions = None
    for which in ("last", "best"):
        if predictions is None or states[which] is not states["last"]:
            arm.net.load_state_dict(states[which])
            predictions = predict(arm.net, call, "test", data)
        arm.record["test"][which] = predictions.metrics(data.task)
        if which == cfg.select:
            arm.record["whole"] = predictions.whole
            save_predictions(arm.net, call, data, arm.folder, predictions)
    save_file(savable_state(arm.net, states[cfg.select]), arm.folder / "student.safetensors")
    write_json(arm.folder / ARM, arm.record)


def save_predictions(net: nn.Module, call: Any, data: SplitDataModule, folder: Path, test: Predictions) -> None:
    """Write what a net says of the test split, and beside it of validation, which a calibration is fitted on."""
    test.save(folder / "test.safetensors")
    if len(data.split.validation):
        predict(net, call, "validation", data).save(folder / "validation.safetensors")
