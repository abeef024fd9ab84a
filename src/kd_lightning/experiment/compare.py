"""From artifacts to a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import nn

from kd_lightning.comparison.records import Arm, Cost
from kd_lightning.comparison.results import Comparison, compare
from kd_lightning.config.roles import key_of
from kd_lightning.config.schema import Config
from kd_lightning.config.two_tokenizers import two_tokenizers
from kd_lightning.data.base import SplitDataModule
from kd_lightning.experiment.likelihood import likelihood_remarks
from kd_lightning.experiment.probes import probe_arms
from kd_lightning.experiment.source import Source
from kd_lightning.files.artifact import Artifact, Part
from kd_lightning.measures.cost import count_parameters, flops, latency
from kd_lightning.training.fit import save_predictions
from kd_lightning.training.nets import load_net, shipped
from kd_lightning.training.predictions import predict


def cost_of(net: nn.Module, call: Any, data: SplitDataModule, weights: Path | None, settings: Config) -> Cost:
    """What a net costs: counted, weighed and timed on this machine's CPU.

    Args:
        net: The net.
        call: How a batch goes through it.
        data: Prepared data.
        weights: Its file; None where it has none of ours.
        settings: ``compare`` says what is timed.
    """
    example = call.arguments(data.ready(next(iter(data.loader("test", whole=True)))))
    net = shipped(net.cpu().eval())
    cost = Cost(
        parameters=count_parameters(net),
        flops=flops(net, example),
        file_bytes=weights.stat().st_size if weights is not None and weights.is_file() else None,
    )
    if settings.compare.latency:
        batch = settings.compare.latency_batch
        cost.latency_ms_batch1 = latency(net, example, 1)
        cost.latency_ms_batched, cost.batched = latency(net, example, batch), batch
    return cost


def build_arm(name: str, artifacts: Sequence[Artifact], data: SplitDataModule, settings: Config) -> Arm:
    """An arm of several seeds, with the cost of the first one's net."""
    runs = [Artifact(one.folder, one.record, name) for one in artifacts]
    first = artifacts[0]
    call = instantiate(first.settings.student.call)
    return Arm(name, first.kind, runs, cost_of(load_net(first), call, data, first.weights, settings))


def build_role_arm(settings: Config, folder: Path, data: SplitDataModule, source: Source) -> Arm:
    """A frozen role as an arm; one that was not trained here is measured now.

    Args:
        settings: The whole configuration.
        folder: The run's folder, for the predictions.
        data: Prepared data.
        source: The role.
    """
    name, net, artifact, call = source.name, source.net, source.artifact, instantiate(source.role.call)
    if artifact is not None:
        cost = cost_of(net, call, data, artifact.weights, settings)
        return Arm(name, Part.TEACHER, [Artifact(artifact.folder, artifact.record, name)], cost)
    found = predict(net, call, "test", data)
    place = folder / key_of(name)
    place.mkdir(exist_ok=True)
    save_predictions(net, call, data, place, found)
    run = Artifact(place, {"seed": source.role.seed, "whole": found.whole}, name)
    return Arm(name, Part.TEACHER, [run], cost_of(net, call, data, None, settings))


def follower_remarks(arm: Arm) -> list[str]:
    """What roles that follow the students of an arm reach, a sentence each."""
    rows = [run.record.get("followers", {}) for run in arm.runs]
    found = []
    for name in rows[0]:
        chosen = [row[name][run.record["selected"]] for row, run in zip(rows, arm.runs, strict=True)]
        means = {key: sum(one[key] for one in chosen) / len(chosen) for key in chosen[0]}
        shown = ", ".join(f"{key} {value:.4f}" for key, value in means.items())
        found.append(f"The role {name}, which follows {arm.name}, on the test split: {shown}.")
    return found


def build_comparison(
    arms: list[Arm],
    data: SplitDataModule,
    settings: Config,
    reference: str | None,
    pairs: Sequence[tuple[str, str]] | None = None,
    teacher: Source | None = None,
) -> Comparison:
    """The comparison of arms on the data's test split, with its pictures.

    Args:
        arms: Frozen roles and students.
        data: Prepared data.
        settings: Settings of the comparison.
        reference: Name of the student trained alone.
        pairs: (arm, reference) that are tested; None: every student against ``reference``.
        teacher: The role that agreement is measured with, for where it was not trained here.

    Raises:
        ValueError: A run that cannot be judged, such as one that diverged.
    """
    for run in (run for arm in arms for run in arm.runs):
        _ = run.answers  # refused before anything more is measured
    probe_arms(arms, data, settings, teacher)
    remarks = []
    if two_tokenizers(settings) and teacher is not None and teacher.role.call.get("prefix"):
        arms = [arm for arm in arms if arm.name != teacher.name]
        remarks = likelihood_remarks(settings, data, teacher, arms)
    remarks += [remark for arm in arms for remark in follower_remarks(arm)]
    # Few enough for a report to choose from.
    looks = data.shown("test") if len(data.split.test) <= 20_000 else {}
    comparison = compare(
        arms, data.class_names, reference, images=looks, alpha=settings.compare.alpha, pairs=pairs, task=data.task.name
    )
    comparison.remarks += remarks
    return comparison
