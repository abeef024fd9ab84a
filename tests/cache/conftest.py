"""Fixture: a training, and how often its teacher ran."""

import pytest

from kd_lightning.core.roles import Role
from tests.cache.commands import TRAIN, losses


@pytest.fixture
def train(cli, monkeypatch):
    """Train; gives the outcome, its losses, and how many samples the teacher saw with a training batch's view."""
    seen, runs = [0], []
    original = Role.forward

    def forward(self, batch):
        if not self.trainable:
            seen[0] += len(batch["index"])
        return original(self, batch)

    monkeypatch.setattr(Role, "forward", forward)

    def run(*arguments, base=TRAIN):
        seen[0] = 0
        runs.append(f"hydra.run.dir=outputs/run/{len(runs)}")  # two may start within one second
        outcome = cli(*base, runs[-1], *arguments)
        assert outcome.code == 0, outcome.text
        outcome.losses = losses(outcome.folder) if "job=cache" not in arguments else []
        outcome.seen = seen[0]
        return outcome

    return run
