"""What the answers on the test split do not tell: the probes of ``measures/``, and likeness to the teacher by layer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kd_lightning.comparison.records import Arm
from kd_lightning.config.schema import Config
from kd_lightning.core.taps import Taps
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.preprocess import to_float
from kd_lightning.experiment.source import Source
from kd_lightning.files.artifact import Artifact
from kd_lightning.files.runs import digest, write_json
from kd_lightning.measures.probe import Probe, known_probes
from kd_lightning.measures.similarity import Similarity, centred_gram, features, layers_cka
from kd_lightning.models.anatomy.aliases import propose_aliases
from kd_lightning.training.identity import weights_hash
from kd_lightning.training.nets import load_net

log = logging.getLogger("kd_lightning")

PROBES = "probes.json"
COMPARED = 512  # test samples whose representations are compared
BATCH = 256

Grams = dict[str, Tensor]
Stored = dict[str, Any]  # contents of probes.json: what was measured -> {key, values}


def probe_arms(arms: Sequence[Arm], data: SplitDataModule, settings: Config, teacher: Source | None = None) -> None:
    """Measure every run of every arm, or take what was measured before and lies beside it.

    Args:
        arms: Their runs get ``probes`` and ``similarity``.
        data: Prepared data.
        settings: ``compare.<probe>`` and ``compare.cka`` say what is measured.
        teacher: The role that students are likened to, where it was not trained here.
    """
    wanted = [
        probe
        for probe in known_probes().values()
        if probe.fits(data.kind, data.task.classes) and getattr(settings.compare, probe.key, True)
    ]
    pictures = data if isinstance(data, KDDataModule) and data.kind == "images" and settings.compare.cka else None
    if not len(data.split.test) or not (wanted or pictures):
        return
    device = torch.device("cuda" if torch.cuda.is_available() and settings.trainer.accelerator != "cpu" else "cpu")
    first = next((arm for arm in arms if arm.teaches), None)
    source = _source(first, settings, teacher)
    likeness = None if pictures is None else _Likeness(source, pictures, device)
    for arm in arms:
        for run in arm.runs:
            own = source if arm is first else copy(run)  # a copy: the net that it loads goes with it
            if own is None or "identity" not in own.record:
                continue
            place = run.folder / PROBES
            stored = _read(place)
            for probe in wanted:
                run.probes[probe.key] = _probed(probe, own, data, device, stored, f"{run.name}, seed {run.seed}")
            if likeness is not None and not arm.teaches:
                run.similarity = likeness.of(own, stored)
            write_json(place, stored)


def _source(arm: Arm | None, settings: Config, source: Source | None) -> Artifact | None:
    """The teacher: of its run, else with the net that is given; None where there is neither."""
    if arm is not None and "identity" in arm.runs[0].record:
        return copy(arm.runs[0])
    if source is None:
        return None
    given = Artifact(Path(), {"identity": weights_hash(source.net)}, source.name, source.net)
    given.settings = replace(settings, student=source.role)
    return given


def _probed(probe: Probe, own: Artifact, data: SplitDataModule, device: torch.device, stored: Stored, name: str) -> Any:
    """What a probe gives, as stored or measured and put there."""
    key = digest([own.record["identity"], data.split.fingerprint, data.fingerprint, *probe.settings])
    if _key(stored, probe.key) != key:
        log.info(f"Measuring {probe.what} of {name} ...")
        subject = _Subject(own, data, device)
        with torch.no_grad():
            stored[probe.key] = {"key": key, "values": probe.measure(subject)}
        subject.net.cpu()
    return stored[probe.key]["values"]


class _Subject:
    """A net and the test samples, as a probe sees them."""

    def __init__(self, own: Artifact, data: SplitDataModule, device: torch.device) -> None:
        self.net, self._call = _net(own, device), instantiate(own.settings.student.call)
        self._data, self._device = data, device

    def _known(self, most: int) -> Tensor:
        """Positions of samples that have a target; where not each has one of its own, of any."""
        positions, kind = _positions(self._data, most), self._data.target
        return positions[kind.known(self._data.targets("test"))[positions]] if kind.each == "sample" else positions

    def batches(self, most: int) -> Iterator[dict[str, Any]]:
        """See ``kd_lightning.measures.probe.Subject``."""
        wanted = self._known(most)
        for raw in self._data.loader("test", whole=True):
            keep = torch.isin(raw["index"], wanted)
            rows = {k: v[keep] if isinstance(v, Tensor) and len(v) == len(keep) else v for k, v in raw.items()}
            if len(rows["index"]):
                yield self._data.ready(rows, self._device)

    def pictures(self, most: int) -> Iterator[dict[str, Any]]:
        """See ``kd_lightning.measures.probe.Subject``."""
        assert isinstance(self._data, KDDataModule)
        targets = self._data.targets("test")
        for part, image in _images(self._data, self._known(most), self._device):
            yield {"index": part, "target": targets[part].to(self._device), "image": image}

    def answer(self, batch: dict[str, Any]) -> Tensor:
        """See ``kd_lightning.measures.probe.Subject``."""
        outputs: Tensor = self._call(self.net, batch)[self._data.task.output]
        return outputs

    def normalise(self, images: Tensor) -> Tensor:
        """See ``kd_lightning.measures.probe.Subject``."""
        assert isinstance(self._data, KDDataModule)
        return self._data.normalise(images)


class _Likeness:
    """Compares students with one teacher, whose layers are measured once, where they are needed."""

    def __init__(self, teacher: Artifact | None, data: KDDataModule, device: torch.device) -> None:
        self.teacher, self.data, self.device = teacher, data, device

    def of(self, own: Artifact, stored: Stored) -> Similarity | None:
        """The student's likeness, as stored or measured and put there; None where no layers are known."""
        if self.teacher is not None:
            identities = [own.record["identity"], self.teacher.record["identity"]]
            key = digest([*identities, self.data.split.fingerprint, self.data.fingerprint, COMPARED])
            if _key(stored, "similarity") != key:
                found = layers_cka(self.grams, _grams(own, self.data, self.device))
                stored["similarity"] = {"key": key, "values": asdict(found)}
        # Without the teacher at hand, what was measured with it before still holds.
        if _key(stored, "similarity") is None or not stored["similarity"]["values"]["teacher"]:
            return None
        return Similarity(**stored["similarity"]["values"])

    @cached_property
    def grams(self) -> Grams:
        """The teacher's layers."""
        assert self.teacher is not None
        return _grams(self.teacher, self.data, self.device)


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


def _positions(data: SplitDataModule, most: int) -> Tensor:
    """At most so many test samples, evenly spread."""
    size = len(data.split.test)
    return torch.arange(size) if size <= most else torch.linspace(0, size - 1, most).long()


def _images(data: KDDataModule, positions: Tensor, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and raw images in [0, 1], batch by batch."""
    for part in torch.split(positions, BATCH):
        yield part, to_float(data.read("test", part)).to(device)


def _net(own: Artifact, device: torch.device) -> nn.Module:
    """To measure it; loaded once for both measurements."""
    own.net = load_net(own)
    return own.net.to(device).eval()


@torch.no_grad()
def _grams(own: Artifact, data: KDDataModule, device: torch.device) -> Grams:
    """Centred Gram matrices of the outputs of the stages and of the embedding; empty where none is known."""
    net, student, name = _net(own, device), own.settings.student, own.name
    call = instantiate(student.call)
    layers: dict[str, str] = {}
    rows: dict[str, list[Tensor]] = {}
    for _, images in _images(data, _positions(data, COMPARED), device):
        batch = {"image": data.normalise(images)}
        if not layers:
            layers = _layers(propose_aliases(name, net, batch["image"][:2], student.taps))
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
