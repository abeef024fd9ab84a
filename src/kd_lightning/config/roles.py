"""The table of roles: who there is under which name. The one place that has the two names of the schema as words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from kd_lightning.config.schema import Config, Frozen, FurtherRole, Role

LEARNER, TEACHER = "student", "teacher"
OWN = (LEARNER, TEACHER)
"""Those that stand at the top of the configuration; the others are under ``roles``."""
SCOPES = ("batch", "run", "data", "terms")
"""What references and parameters call other things."""
FOLLOWER = ("name", "follows", "decay")
"""What may be set of a role that follows."""


def table(settings: Config) -> dict[str, Role]:
    """Every role's settings, by name."""
    return {LEARNER: settings.student, TEACHER: settings.teacher, **settings.roles}


def frozen(settings: Config) -> dict[str, Frozen]:
    """The roles that neither learn nor follow."""
    further = {name: role for name, role in settings.roles.items() if role.follows is None}
    return {TEACHER: settings.teacher, **further}


def followers(settings: Config) -> dict[str, FurtherRole]:
    """The roles that follow another."""
    return {name: role for name, role in settings.roles.items() if role.follows is not None}


def key_of(name: str) -> str:
    """Where a role is set: ``teacher``, ``roles.b``."""
    return name if name in OWN else f"roles.{name}"


def node_of(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A role in a whole configuration of plain values."""
    node: dict[str, Any] = content[name] if name in OWN else content["roles"][name]
    return node


def with_roles(settings: Config, names: Iterable[str]) -> Config:
    """The settings with these of the further roles: what a training has no use for is no part of it."""
    names = set(names)
    if names.issuperset(settings.roles):
        return settings
    return replace(settings, roles={name: role for name, role in settings.roles.items() if name in names})


def with_serving(settings: Config, **changes: Any) -> Config:
    """The settings with another ``Serving`` of every frozen role."""

    def served(role: Any) -> Any:
        return role if getattr(role, "follows", None) is not None else replace(role, **changes)

    roles = {name: served(role) for name, role in settings.roles.items()}
    return replace(settings, teacher=served(settings.teacher), roles=roles)


def check_roles(settings: Config) -> None:
    """Refuse a table that cannot be.

    Raises:
        ValueError: A name that is taken, a role without a net, or one that follows and has more than that.
    """
    for name, role in settings.roles.items():
        if name in (*OWN, *SCOPES) or not re.fullmatch(r"\w+", name):
            taken = ", ".join((*OWN, *SCOPES))
            raise ValueError(f"roles.{name}: choose another name, of letters, digits and _; {taken} are taken.")
        if role.follows is None:
            if role.net == "???":
                raise ValueError(
                    f"roles.{name} has no net: choose one with +model@roles.{name}=<model>, or let it follow the role"
                    f" that learns: roles.{name}.follows={LEARNER}."
                )
            continue
        if role.follows != LEARNER:
            raise ValueError(f"roles.{name}.follows={role.follows}: only the role that learns moves; set {LEARNER}.")
        if not 0 <= role.decay < 1:
            raise ValueError(f"roles.{name}.decay={role.decay}: it is a share, from 0 to below 1.")
        for key in _set(role):
            raise ValueError(
                f"roles.{name}.{key} is set, but the role follows {role.follows}: it is a copy of it, called and tapped"
                f" as it is. Leave {key} out, or set roles.{name}.follows=null."
            )


def _set(role: FurtherRole) -> list[str]:
    """What is set of a role that follows, though it has no use for it."""
    found = []
    for one in fields(role):
        default: Callable[[], Any] | Any = one.default if one.default_factory is MISSING else one.default_factory()
        if one.name not in FOLLOWER and getattr(role, one.name) != default:
            found.append(one.name)
    return found
