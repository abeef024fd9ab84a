"""Trainings before the main ones: those of frozen roles, and that of the student's body."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import nn

from kd_lightning.config.roles import frozen, with_roles
from kd_lightning.config.schema import Config, Frozen
from kd_lightning.config.two_tokenizers import check_prefix
from kd_lightning.experiment.examine import examine
from kd_lightning.experiment.settle import Settled
from kd_lightning.experiment.source import Source
from kd_lightning.files.artifact import Part
from kd_lightning.training.nets import build_net, load_net
from kd_lightning.training.objective import asked_roles
from kd_lightning.training.store import shared_nets
from kd_lightning.training.training import Training

log = logging.getLogger("kd_lightning")


def obtain_roles(
    settled: Settled, names: Iterable[str], above: Collection[str] = (), given: Mapping[str, nn.Module] | None = None
) -> dict[str, Source]:
    """These of the roles, as far as they are frozen: built, or found finished, or trained.

    Args:
        settled: The configuration with its data.
        names: Of roles of any kind.
        above: Roles whose training needs these, and which it cannot have for itself.
        given: Nets of roles that come from elsewhere, where they are loaded already.
    """
    known, given = frozen(settled.settings), given or {}
    names = [name for name in names if name in known and name not in above]
    return {name: _obtain(settled, name, (*above, name), given.get(name)) for name in names}


def _obtain(settled: Settled, name: str, above: Collection[str], net: nn.Module | None) -> Source:
    settings = settled.settings
    check_prefix(settings)
    role = frozen(settings)[name]
    if is_given(role):
        own = build_net(role, role.seed, frozen=True) if net is None else net
        source = Source(name, role, own.eval())
        log.info(f"{name} {role.name}: {role.checkpoint or 'used as it is built'}")
    else:
        artifact = shared_nets(role.store).obtain(_training(settled, name, above))
        source = Source(name, role, load_net(artifact), artifact)
    examine(settings, settled.data, source)
    return source


def is_given(role: Frozen) -> bool:
    """Whether a role comes from elsewhere, not from the store."""
    return role.checkpoint is not None or role.fit is None


def role_place(settled: Settled, name: str) -> Path:
    """Where a role lies in the store, or will lie."""
    own = settled.of_role(name)
    training = Training(with_roles(own.settings, asked_roles(own.settings)), own.data)
    return shared_nets(frozen(settled.settings)[name].store).place(training)


def _training(settled: Settled, name: str, above: Collection[str]) -> Training:
    """That of a role; it may learn from others, as the student has them."""
    own = settled.of_role(name)
    asked = asked_roles(own.settings)
    settings, theirs = with_roles(own.settings, asked), nets(obtain_roles(settled, asked, above))
    label = f"{name} {frozen(settled.settings)[name].name}"
    return Training(settings, own.data, theirs, label, Part.TEACHER)


def nets(sources: dict[str, Source]) -> dict[str, nn.Module]:
    """Role -> net."""
    return {name: source.net for name, source in sources.items()}


def check_asked(settings: Config, asked: Iterable[str]) -> None:
    """Refuse a further role that nothing asks.

    Args:
        settings: The whole configuration.
        asked: Roles that the methods of a command ask.

    Raises:
        ValueError: With what to set.
    """
    asked = set(asked)
    before = [str((role.fit or {}).get("method")) for role in (settings.student, *frozen(settings).values())]
    for name in settings.roles:
        if name not in asked and not any(f"{name}." in method for method in before):
            raise ValueError(
                f"roles.{name} is set, but no term of {settings.method.name} asks it. Let an input of a term name it,"
                f" such as method.terms.kd.inputs.teacher={name}.logits, or leave it out: ~roles.{name}"
            )


def prepare_student(settled: Settled) -> Settled:
    """Train the body of the student where ``student.fit`` says so, or find it finished; it is ``student.body`` then.

    Its data and metrics are those of ``student.fit``. Frozen roles are as ``model@teacher`` builds them, before they
    are trained on the task; student and teacher are built for the task of ``student.fit.data``.
    """
    if settled.settings.student.fit is None:
        return settled
    own = settled.of_body()
    asked = asked_roles(own.settings)
    settings = with_roles(own.settings, asked)
    built = {
        name: build_net(role, role.seed, frozen=True).eval() for name, role in frozen(settings).items() if name in asked
    }
    label = f"student {settings.student.name} before the task ({settings.method.name} on {settings.data['name']})"
    training = Training(settings, own.data, built, label)
    return settled.with_body(shared_nets(settings.teacher.store).obtain(training).folder)
