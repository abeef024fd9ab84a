"""What the logits of the test split do not tell: robustness to corruptions, and likeness to the teacher by layer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from kd_lightning.core.taps import Taps
from kd_lightning.data.module import KDDataModule
from kd_lightning.data.preprocess import to_float
from kd_lightning.jobs._arm import weights_hash
from kd_lightning.jobs._load import load_run
from kd_lightning.jobs._taps import propose_aliases
from kd_lightning.report.records import Arm, Run, Similarity
from kd_lightning.report.robustness import STRENGTHS, corrupt, corruptions
from kd_lightning.report.similarity import centred_gram, features, layers_cka
from kd_lightning.runs import digest, write_json

log = logging.getLogger("kd_lightning")

PROBES = "probes.json"
CORRUPTED = 2000  # test samples that are corrupted, spread over the split
COMPARED = 512  # test samples whose representations are compared
BATCH = 256

Grams = dict[str, Tensor]


@dataclass
class _Net:
    """A net as it is measured: how it is called and where its layers are."""

    net: nn.Module
    call: Any
    taps: dict[str, Any]
    identity: str


def probe_arms(arms: Sequence[Arm], data: KDDataModule, cfg: DictConfig, teacher: nn.Module | None = None) -> None:
    """Measure every run of every arm, or take what was measured before and lies beside it.

    Args:
        arms: Their runs get ``robustness`` and ``similarity``.
        data: Prepared data; of other than images nothing is measured.
        cfg: ``compare.robustness`` and ``compare.cka`` say what is measured.
        teacher: The teacher's net where its folder cannot be loaded.
    """
    wanted = {"robustness": bool(cfg.compare.robustness), "cka": bool(cfg.compare.cka)}
    if data.image_size is None or not len(data.split.test) or not any(wanted.values()):
        return
    log.info(f"Measuring {' and '.join(name for name, on in wanted.items() if on)} ...")
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    of_teacher, teachers_identity = _teacher(arms, cfg, teacher, wanted["cka"])
    grams: Grams | None = None
    for arm in arms:
        for run in arm.runs:
            own = of_teacher if arm.kind == "teacher" and of_teacher is not None else _load(run)
            if own is None:
                continue
            likeness = wanted["cka"] and arm.kind != "teacher" and of_teacher is not None
            key = digest([own.identity, data.split.fingerprint, STRENGTHS, CORRUPTED, COMPARED, teachers_identity])
            found = _read(Path(run.folder), key)
            if wanted["robustness"] and "robustness" not in found:
                found["robustness"] = _robustness(own, data, device)
            if likeness and "similarity" not in found:
                assert of_teacher is not None
                grams = grams if grams is not None else _grams(of_teacher, data, device, "teacher")
                found["similarity"] = asdict(layers_cka(grams, _grams(own, data, device, run.name)))
            write_json(Path(run.folder) / PROBES, {"key": key, **found})
            run.robustness = found.get("robustness", {}) if wanted["robustness"] else {}
            run.similarity = Similarity(**found["similarity"]) if likeness and found["similarity"]["teacher"] else None


def _teacher(
    arms: Sequence[Arm], cfg: DictConfig, net: nn.Module | None, needed: bool
) -> tuple[_Net | None, str | None]:
    """The teacher's net, and what tells it from others."""
    run = next((arm.runs[0] for arm in arms if arm.kind == "teacher"), None)
    loaded = None if run is None else _load(run)
    if loaded is None and net is not None:
        loaded = _Net(net.eval(), instantiate(cfg.teacher.call), dict(cfg.teacher.taps), weights_hash(net))
    return loaded, None if loaded is None or not needed else loaded.identity


def _load(run: Run) -> _Net | None:
    """The net of a run; None where its folder is not that of a finished training."""
    try:
        loaded = load_run(run.folder)
        identity = json.loads((Path(run.folder) / "arm.json").read_text())["identity"]
    except FileNotFoundError:
        return None
    return _Net(loaded.net, instantiate(loaded.cfg.student.call), dict(loaded.cfg.student.taps), identity)


def _read(folder: Path, key: str) -> dict[str, Any]:
    """What was measured before, of the same net on the same samples."""
    try:
        found: dict[str, Any] = json.loads((folder / PROBES).read_text())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if name != "key"} if found.get("key") == key else {}


def _positions(data: KDDataModule, most: int) -> Tensor:
    """At most so many test samples, evenly spread."""
    size = len(data.split.test)
    return torch.arange(size) if size <= most else torch.linspace(0, size - 1, most).long()


def _images(data: KDDataModule, positions: Tensor, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and raw images in [0, 1], batch by batch."""
    for part in torch.split(positions, BATCH):
        yield part, to_float(data.read("test", part)).to(device)


@torch.no_grad()
def _robustness(own: _Net, data: KDDataModule, device: torch.device) -> dict[str, list[float]]:
    """Accuracy as the images are and under every corruption, strongest last."""
    positions = _positions(data, CORRUPTED)
    targets = data.targets("test")
    positions = positions[targets[positions] >= 0]
    right = dict.fromkeys([("clean", 0.0), *corruptions()], 0)
    net = own.net.to(device).eval()
    for part, images in _images(data, positions, device):
        for kind, strength in right:
            seen = images if kind == "clean" else corrupt(images, kind, strength, int(part[0]))
            answer = own.call(net, {"image": data.normalise(seen)})["logits"].argmax(1).cpu()
            right[kind, strength] += int((answer == targets[part]).sum())
    net.cpu()
    result: dict[str, list[float]] = {}
    for (kind, _), count in right.items():
        result.setdefault(kind, []).append(count / max(len(positions), 1))
    return result


@torch.no_grad()
def _grams(own: _Net, data: KDDataModule, device: torch.device, name: str) -> Grams:
    """Centred Gram matrices of the outputs of the stages and of the embedding; empty where none is known."""
    net = own.net.to(device).eval()
    layers: dict[str, str] = {}
    rows: dict[str, list[Tensor]] = {}
    for _, images in _images(data, _positions(data, COMPARED), device):
        batch = {"image": data.normalise(images)}
        if not layers:
            layers = _layers(propose_aliases(name, net, batch["image"][:2], own.taps))
        taps = Taps(net, layers.values(), name)
        try:
            own.call(net, batch)
            captured = taps.take()
        except ValueError as error:  # a layer that is used twice, or not at all
            log.info(f"likeness by layer is not measured: {error}")
            return {}
        finally:
            taps.remove()
        for layer, spec in layers.items():
            rows.setdefault(layer, []).append(features(captured[spec]).cpu())
    net.cpu()
    if not layers:
        log.info(f"likeness by layer is not measured: no layers are known in {name}; name them under taps.stages")
    return {layer: centred_gram(torch.cat(parts)) for layer, parts in rows.items()}


def _layers(aliases: dict[str, Any]) -> dict[str, str]:
    """What the report calls a layer -> where it is tapped."""
    stages = aliases.get("all_stages", ())
    found = {spec.partition(":")[0]: spec for spec in ([stages] if isinstance(stages, str) else stages)}
    return found | ({"embedding": aliases["embedding"]} if aliases.get("embedding") else {})
