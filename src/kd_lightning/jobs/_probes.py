"""What the logits of the test split do not tell: robustness to corruptions, and likeness to the teacher by layer."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
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
from kd_lightning.jobs._load import ARM, load_run
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
Stored = dict[str, Any]  # contents of probes.json: what was measured -> {key, values}


@dataclass
class _Net:
    """A net as it is measured.

    Attributes:
        identity: What tells it from others.
        load: Gives the net, how it is called, and its own taps; called only where something is measured.
    """

    identity: str
    load: Callable[[], tuple[nn.Module, Any, dict[str, Any]]]


def probe_arms(arms: Sequence[Arm], data: KDDataModule, cfg: DictConfig, teacher: nn.Module | None = None) -> None:
    """Measure every run of every arm, or take what was measured before and lies beside it.

    Args:
        arms: Their runs get ``robustness`` and ``similarity``.
        data: Prepared data; of other than images nothing is measured.
        cfg: ``compare.robustness`` and ``compare.cka`` say what is measured.
        teacher: The teacher's net where its folder cannot be loaded.
    """
    if data.image_size is None or not len(data.split.test):
        return
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    of_teacher = _teacher(arms, cfg, teacher)
    likeness = _Likeness(of_teacher, data, device) if cfg.compare.cka else None
    for arm in arms:
        for run in arm.runs:
            own = of_teacher if arm.kind == "teacher" else _of_run(run)
            if own is None:
                continue
            place = Path(run.folder) / PROBES
            stored = _read(place)
            if cfg.compare.robustness:
                run.robustness = _robust(own, data, device, stored, f"{run.name}, seed {run.seed}")
            if likeness is not None and arm.kind != "teacher":
                run.similarity = likeness.of(own, stored, run.name)
            write_json(place, stored)


def _robust(own: _Net, data: KDDataModule, device: torch.device, stored: Stored, label: str) -> dict[str, list[float]]:
    """Accuracies under corruption, as stored or measured and put there."""
    key = digest([own.identity, data.split.fingerprint, data.fingerprint, STRENGTHS, CORRUPTED])
    if _key(stored, "robustness") != key:
        log.info(f"Measuring the robustness of {label} ...")
        stored["robustness"] = {"key": key, "values": _robustness(own, data, device)}
    values: dict[str, list[float]] = stored["robustness"]["values"]
    return values


class _Likeness:
    """Compares students with one teacher, whose layers are measured once, where they are needed."""

    def __init__(self, teacher: _Net | None, data: KDDataModule, device: torch.device) -> None:
        self.teacher, self.data, self.device = teacher, data, device

    def of(self, own: _Net, stored: Stored, name: str) -> Similarity | None:
        """The student's likeness, as stored or measured and put there; None where no layers are known."""
        if self.teacher is not None:
            split = [self.data.split.fingerprint, self.data.fingerprint]
            key = digest([own.identity, self.teacher.identity, *split, COMPARED])
            if _key(stored, "similarity") != key:
                found = layers_cka(self.grams, _grams(own, self.data, self.device, name))
                stored["similarity"] = {"key": key, "values": asdict(found)}
        # Without the teacher at hand, what was measured with it before still holds.
        if _key(stored, "similarity") is None or not stored["similarity"]["values"]["teacher"]:
            return None
        return Similarity(**stored["similarity"]["values"])

    @cached_property
    def grams(self) -> Grams:
        """The teacher's layers."""
        assert self.teacher is not None
        return _grams(self.teacher, self.data, self.device, "teacher")


def _teacher(arms: Sequence[Arm], cfg: DictConfig, net: nn.Module | None) -> _Net | None:
    """The teacher's net: of its run, else the one that is given."""
    run = next((arm.runs[0] for arm in arms if arm.kind == "teacher"), None)
    found = None if run is None else _of_run(run)
    if found is None and net is not None:
        call, taps = instantiate(cfg.teacher.call), dict(cfg.teacher.taps)
        found = _Net(weights_hash(net), lambda: (net.eval(), call, taps))
    return found


def _of_run(run: Run) -> _Net | None:
    """The net of a run; None where its folder is not that of a finished training."""
    try:
        identity = json.loads((Path(run.folder) / ARM).read_text())["identity"]
    except FileNotFoundError:
        return None

    @cache  # read once for both measurements
    def load() -> tuple[nn.Module, Any, dict[str, Any]]:
        loaded = load_run(run.folder)
        return loaded.net, instantiate(loaded.cfg.student.call), dict(loaded.cfg.student.taps)

    return _Net(identity, load)


def _read(place: Path) -> Stored:
    """What was measured before."""
    try:
        found = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(stored: Stored, what: str) -> str | None:
    """Of which net, on which samples."""
    found = stored.get(what)
    return str(found["key"]) if isinstance(found, dict) and {"key", "values"} <= set(found) else None


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
    net, call, _ = own.load()
    net = net.to(device).eval()
    for part, images in _images(data, positions, device):
        for kind, strength in right:
            seen = images if kind == "clean" else corrupt(images, kind, strength, int(part[0]))
            answer = call(net, {"image": data.normalise(seen)})["logits"].argmax(1).cpu()
            right[kind, strength] += int((answer == targets[part]).sum())
    net.cpu()
    result: dict[str, list[float]] = {}
    for (kind, _), count in right.items():
        result.setdefault(kind, []).append(count / max(len(positions), 1))
    return result


@torch.no_grad()
def _grams(own: _Net, data: KDDataModule, device: torch.device, name: str) -> Grams:
    """Centred Gram matrices of the outputs of the stages and of the embedding; empty where none is known."""
    net, call, own_taps = own.load()
    net = net.to(device).eval()
    layers: dict[str, str] = {}
    rows: dict[str, list[Tensor]] = {}
    for _, images in _images(data, _positions(data, COMPARED), device):
        batch = {"image": data.normalise(images)}
        if not layers:
            layers = _layers(propose_aliases(name, net, batch["image"][:2], own_taps))
        taps = Taps(net, layers.values(), name)
        try:
            call(net, batch)
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
