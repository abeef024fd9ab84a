"""What can be compared across tokenizers: likelihood by character."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from hydra.utils import instantiate

from kd_lightning.comparison.records import Arm
from kd_lightning.config.schema import Config
from kd_lightning.config.two_tokenizers import PREFIX
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.targets import IGNORE
from kd_lightning.experiment.source import Source
from kd_lightning.training.predictions import predict


def likelihood_remarks(settings: Config, data: SplitDataModule, teacher: Source, arms: Iterable[Arm]) -> list[str]:
    """What can be compared across tokenizers: nats per character of the test split, as a sentence.

    Args:
        settings: The whole configuration.
        data: Prepared data with the tokens of both.
        teacher: The one with another tokenizer.
        arms: The students.
    """
    tokens = _count(data, "test")
    theirs = predict(teacher.net, instantiate(teacher.role.call), "test", data).whole["nll"] * tokens[PREFIX]
    said = [f"{teacher.role.name} ({teacher.name}) {theirs / tokens['characters']:.3f}"]
    for arm in arms:
        mean = sum(run.whole["nll"] for run in arm.runs) / len(arm.runs)
        said.append(f"{arm.name} {mean * tokens[''] / tokens['characters']:.3f}")
    return [
        "The teacher reads other tokens than the students, so numbers of tokens cannot be compared with it, and it is"
        f" left out of the table. Negative log-likelihood on the test split in nats per character: {', '.join(said)}."
    ]


def _count(data: SplitDataModule, split: str) -> Mapping[str, int]:
    """Tokens of either side that are predicted, by their prefix, and characters (the end of a text being one)."""
    found = {"": 0, PREFIX: 0, "characters": 0}
    for batch in data.loader(split, whole=True):
        for prefix in ("", PREFIX):
            found[prefix] += int((batch[f"{prefix}target"] != IGNORE).sum())
        found["characters"] += int(torch.where(batch["loss_mask"], batch["target_ends"], 0).amax(1).sum())
    return found
