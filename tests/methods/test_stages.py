"""Methods of several stages, from the command line: what each stage trains, what it leaves alone, what is chosen."""

from __future__ import annotations

import json
import re

import pytest
import torch

from tests.conftest import TINY
from tests.methods.build import composed

# 160 samples, of which 0.7 train, 16 a batch: 7 steps an epoch.
EPOCHS, STEPS = 9, 63
PROBE = ["+callbacks.probe._target_=tests.methods.probe.Steps", f"trainer.max_epochs={EPOCHS}"]


@pytest.mark.parametrize("method", ["fsp", "ab", "ft", "fitnet_two_stage", "sskd"])
def test_stages_freeze_and_switch(cli, method: str):
    outcome = cli(*TINY, *PROBE, "job=train", f"method={method}", "teacher.fit=null", "metrics.mode=min")
    assert outcome.code == 0, outcome.text
    steps = json.loads((outcome.folder / "steps.json").read_text())
    assert len(steps) == STEPS
    first, second = composed(f"method={method}").method.stages
    switch = next(i for i in range(STEPS) if i / STEPS >= first.fraction)
    assert 0 < switch < STEPS

    for stage, part in ((first, steps[:switch]), (second, steps[switch:])):
        assert all(step["terms"] == sorted(stage.terms) for step in part)
        changed = {name for step in part for name in step["changed"]}
        assert all(any(re.match(pattern, name) for pattern in stage.params) for name in changed), sorted(changed)
        # Each of the parts that the stage names learns, where it exists (fsp has no connectors for equal channels).
        for pattern in stage.params:
            exists = any(re.match(pattern, name) for step in steps for name in step["changed"])
            assert not exists or any(re.match(pattern, name) for name in changed), pattern

    # Weights are chosen among those of the last stage, though the first epoch's would be taken: mode=min.
    best = torch.load(outcome.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] > switch
