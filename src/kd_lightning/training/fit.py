"""From a training to what it leaves in its folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.trainer.states import TrainerStatus
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd_lightning.config.roles import LEARNER, TEACHER
from kd_lightning.config.values import plain, write_settings
from kd_lightning.core.abort import LostProcessError, UserAbortError
from kd_lightning.core.checkpoints import check_whole, newest_whole
from kd_lightning.core.device import training_device
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.ranks import lost_process
from kd_lightning.data.base import SplitDataModule
from kd_lightning.files.artifact import SETTINGS, TEST, VALIDATION, Artifact
from kd_lightning.files.checksum import DamagedFileError
from kd_lightning.measures.energy import EnergyMeter
from kd_lightning.models.registry import load_state, savable_state
from kd_lightning.training.best_on_test import BestOnTest, looks_on_test
from kd_lightning.training.distiller import build_distiller
from kd_lightning.training.nets import student_net
from kd_lightning.training.predictions import Predictions, predict
from kd_lightning.training.trainer import build_trainer
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")


def fit(training: Training, folder: Path, trainings: int = 1) -> Artifact:
    """Train, select, measure on test and save; or take what an earlier start already finished.

    Args:
        training: What is trained.
        folder: Where the artifact lies.
        trainings: How many trainings of this command want the same of a frozen role, for ``teacher.cache=auto``.

    Returns:
        The artifact with its net.
    """
    settings, data = training.settings, training.data
    net = student_net(settings, training.frozen.get(TEACHER))
    done = find(folder, training.identity)
    if done is not None:
        log.info(f"{training.label}: finished earlier, taken from {folder}")
        load_state(net, load_file(done.weights))
        done.net = net.eval()
        return done

    _check_selection(training)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(plain(settings), folder / SETTINGS)
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    distiller, settings = build_distiller(training, net, trainings)
    distiller.train()  # Lightning leaves it as it is, and a checkpoint of transformers comes in evaluation mode
    log.info(f"{training.label}: training ...")
    for name, shapes in distiller.pairing:
        log.info(f"  {name}: " + ", ".join(f"{argument} {shape}" for argument, shape in shapes.items()))
    trainer = build_trainer(settings, folder, training.label, training.kind)
    if settings.protocol == "paper":
        trainer.callbacks.insert(0, BestOnTest(data))  # type: ignore[attr-defined]  # before those that save its state
    started = time.perf_counter()
    with EnergyMeter(gpu=trainer.strategy.root_device.type == "cuda") as energy:
        _train(trainer, distiller, data, _resume_point(settings.ckpt_path, folder))
    seconds = time.perf_counter() - started
    best = _best_state(trainer)
    states = _weights(net, best, f"roles.trainable.{LEARNER}.net.")
    artifact = Artifact(folder, _record(training, trainer, seconds), training.label, net)
    # Of several trainings at once nobody can say which one spent it.
    artifact.record["energy_joules"] = energy.joules if settings.study.workers == 1 else None
    if trainer.is_global_zero:
        if distiller.roles.following:
            artifact.record["followers"] = _measure_followers(distiller, best, training)
        _measure_and_save(artifact, net, training, states)
    trainer.strategy.barrier()
    net.load_state_dict(states[settings.select])
    net.eval()
    return artifact


def find(folder: Path, identity: str) -> Artifact | None:
    """What a folder holds, where it is complete, undamaged and of this identity; what is damaged is told once."""
    try:
        found = Artifact.open(folder)
        damage = found.damage() if found.record.get("identity") == identity else None
    except DamagedFileError as error:
        found, damage = None, str(error)
    except (OSError, ValueError):
        return None
    if damage is not None:
        _tell_once(f"{damage} It is made anew.")
        return None
    return found if found is not None and found.record.get("identity") == identity else None


@cache
def _tell_once(message: str) -> None:
    log.warning(message)


def _check_selection(training: Training) -> None:
    if training.settings.select == "best" and len(training.data.split.validation) == 0:
        raise ValueError(
            f"{training.settings.data['name']} has no validation split, so no weights can be chosen as best: set"
            " data.val_fraction=0.1, or select=last callbacks.checkpoint.monitor=null (and"
            " callbacks.early_stopping=null under teacher.fit)."
        )


def _resume_point(asked: str | None, folder: Path) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the furthest that an interrupted start left."""
    if asked is not None:
        if not Path(asked).is_file():
            raise FileNotFoundError(f"ckpt_path={asked}: no such checkpoint.")
        check_whole(Path(asked))
        return asked
    newest = newest_whole(sorted((folder / "checkpoints").glob("*.ckpt")))
    if newest is None:
        return None
    log.info(f"  going on from {newest.name}")
    return str(newest)


def _train(trainer: pl.Trainer, distiller: Distiller, data: SplitDataModule, ckpt_path: str | None) -> None:
    """Lightning's fit; an interruption from outside becomes ours, with its exit code."""
    try:
        trainer.fit(distiller, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as stop:
        code = 143 if trainer.received_sigterm else 130
        where = "resume=auto goes on from the checkpoint."
        raise UserAbortError(f"Stopped. {where}", code) from stop
    except RuntimeError as error:
        if not lost_process(error):
            raise
        said = str(error).strip().splitlines()[0][:200]
        raise LostProcessError(
            f"Another process of this training has ended ({said}); its own lines above say why. The same command with"
            " resume=auto goes on from the last checkpoint."
        ) from error
    finally:
        distiller.roles.release()
    if trainer.state.status == TrainerStatus.INTERRUPTED:
        raise UserAbortError("Stopped. resume=auto goes on from the checkpoint.", 130)


def _best_state(trainer: pl.Trainer) -> dict[str, Tensor] | None:
    """All weights where the student was best on validation; None where nothing was chosen."""
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        return None
    check_whole(Path(path))
    # Mapped: every process reads the weights, none of them the moments of the optimiser, which are twice as large.
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    return found


def _weights(net: nn.Module, best: Mapping[str, Tensor] | None, prefix: str) -> dict[str, dict[str, Tensor]]:
    """The weights of a net: after the last step, and the best on validation, which lie below a prefix."""
    last = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
    if best is None:
        return {"last": last, "best": last}
    return {"last": last, "best": {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)}}


def _record(training: Training, trainer: pl.Trainer, seconds: float) -> dict[str, Any]:
    settings = training.settings
    monitored = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return {
        "identity": training.identity,
        "model": settings.student.name,
        "method": settings.method.name,
        "seed": settings.seed,
        "selected": settings.select,
        "epochs": trainer.current_epoch,
        "train_seconds": round(seconds, 2),
        "validation": {settings.metrics.monitor: None if monitored is None else round(float(monitored), 6)},
        "test": looks_on_test(trainer),
        "label": training.label,
        "kind": training.kind.value,
    }


def _measure_followers(distiller: Distiller, best: Mapping[str, Tensor] | None, training: Training) -> dict[str, Any]:
    """Metrics on test of the roles that follow: after the last step, and where the student was best on validation."""
    found: dict[str, Any] = {}
    for name, role in distiller.roles.following.items():
        net = role.net
        assert isinstance(net, nn.Module)
        for which, state in _weights(net, best, f"roles.following.{name}.net.").items():
            net.load_state_dict(state)
            told = predict(net, instantiate(training.learner.call), "test", training.data, _device(training))
            metrics = told.metrics(training.data.task)
            found.setdefault(name, {})[which] = metrics
    return found


def _measure_and_save(
    artifact: Artifact, net: nn.Module, training: Training, states: Mapping[str, dict[str, Tensor]]
) -> None:
    """Measure last and best on test, save the selected weights and their predictions; arm.json comes last."""
    data, select = training.data, training.settings.select
    call = instantiate(training.learner.call)
    predictions = None
    for which in ("last", "best"):
        if predictions is None or states[which] is not states["last"]:
            net.load_state_dict(states[which])
            predictions = predict(net, call, "test", data, _device(training))
        artifact.record["test"][which] = predictions.metrics(data.task)
        if which == select:
            artifact.record["whole"] = predictions.whole
            save_predictions(net, call, data, artifact.folder, predictions, _device(training))
    save_file(savable_state(net, states[select]), artifact.weights)
    artifact.close()


def _device(training: Training) -> torch.device:
    """Where it is measured: where it was trained."""
    trainer = training.settings.trainer
    return training_device(trainer.accelerator, trainer.devices)


def save_predictions(
    net: nn.Module,
    call: Any,
    data: SplitDataModule,
    folder: Path,
    test: Predictions,
    device: torch.device | None = None,
) -> None:
    """Write what a net says of the test split, and beside it of validation, which a calibration is fitted on."""
    test.save(folder / TEST)
    if len(data.split.validation):
        predict(net, call, "validation", data, device).save(folder / VALIDATION)
