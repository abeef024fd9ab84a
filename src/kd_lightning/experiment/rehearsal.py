"""What an experiment is made of, joined once with nets that have learnt nothing: what cannot go well fails at once.

A misspelt tap, a loss whose shapes do not fit or a method of another task would else be found after the trainings
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from kd_lightning.cache.decide import check_serving
from kd_lightning.config.roles import frozen, key_of, with_roles
from kd_lightning.config.schema import Config, Frozen
from kd_lightning.config.two_tokenizers import check_prefix
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.select import make_rules
from kd_lightning.experiment.examine import strictness
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.upstream import is_given
from kd_lightning.training.distiller import read_batch, rehearse
from kd_lightning.training.nets import build_net
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.training import Training


def rehearse_all(settled: Settled, names: Iterable[str], arms: Mapping[str, Config]) -> dict[str, nn.Module]:
    """Join roles, taps, terms, optimiser and metrics of every kind of training on a few samples.

    Args:
        settled: The configuration with its data.
        names: Of the frozen roles that the arms need.
        arms: Label -> settings of a training of each arm, with the further roles that it has.

    Returns:
        Role -> net, of those that come from elsewhere: they need not be loaded twice.

    Raises:
        ValueError: What does not fit, of every arm.
    """
    settings, data = settled.settings, settled.data
    check_splits(data)
    check_prefix(settings)
    if settings.data.get("select") is not None:
        make_rules(settings.data["select"])
    known = frozen(settings)
    for name, role in known.items():
        check_serving(role, key_of(name))
        strictness(settings, role)
    nets = {name: _built(known[name]) for name in names if name in known}
    for name in nets:
        if not is_given(known[name]):
            _rehearse_role(settled, name)
    wrong, batch = {}, read_batch(data)
    for label, own in arms.items():
        try:
            theirs = {name: net for name, net in nets.items() if name in asked_roles(own)}
            rehearse(Training(own, data, theirs), batch)
        except ValueError as error:
            wrong[label] = str(error)
    if wrong:
        every = [f"{label}: {why}" if len(arms) > 1 else why for label, why in wrong.items()]
        raise ValueError("\n".join(every))
    return {name: net for name, net in nets.items() if is_given(known[name])}


def check_splits(data: SplitDataModule) -> None:
    """Refuse data without a test split: whatever is trained is measured on it at the end.

    Raises:
        ValueError: With what to set.
    """
    if not len(data.split.test):
        raise ValueError(f"{data.name} has no test split, which every net is measured on: set data.test_fraction=0.2.")


def _rehearse_role(settled: Settled, name: str) -> None:
    """That of a role's own training, with what it learns from itself."""
    own = settled.of_role(name)
    asked, known = asked_roles(own.settings), frozen(own.settings)
    theirs = {one: _built(known[one]) for one in asked if one in known and one != name}
    try:
        rehearse(Training(with_roles(own.settings, asked), own.data, theirs), read_batch(own.data))
    except ValueError as error:
        raise ValueError(f"The training of the {name} ({key_of(name)}.fit): {error}") from error


def _built(role: Frozen) -> nn.Module:
    """A role's net before any training."""
    return build_net(role, role.seed, frozen=is_given(role)).eval()
