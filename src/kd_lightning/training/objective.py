"""What a method asks for: its terms, its stages, and the roles beside the one that learns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from kd_lightning.config.roles import LEARNER, TEACHER, table
from kd_lightning.config.schema import Config, Method
from kd_lightning.core.terms import Objective, Stage, Term


def build_objective(method: Method) -> Objective:
    """Terms and stages of a method.

    Raises:
        ValueError: A term lacks its loss, its inputs or its weight, or calls the function that is its loss.
    """
    terms = []
    for name, node in method.terms.items():
        if node is None:
            continue  # a term that an override took out
        for key in ("loss", "inputs", "weight"):
            if not isinstance(node, Mapping) or node.get(key) is None:
                raise ValueError(f"method.terms.{name} lacks '{key}': a term is {{loss, inputs, weight}}.")
        weight = node["weight"]
        if not isinstance(weight, int | float):
            weight = _made(f"method.terms.{name}.weight", weight, "a number, or a schedule with")
        terms.append(Term(str(name), _loss(str(name), node["loss"]), node["inputs"], weight))
    if not all(isinstance(stage, Mapping) and {"terms", "fraction"} <= set(stage) for stage in method.stages):
        raise ValueError("method.stages: each is {terms: [<names of terms>], fraction: <share of the training>}.")
    stages = [
        Stage(tuple(s["terms"]), float(s["fraction"]), None if s.get("params") is None else tuple(s["params"]))
        for s in method.stages
    ]
    return Objective(terms, stages)


def _loss(name: str, node: Any) -> Any:
    """The loss of a term: a module, or a function that Hydra has bound numbers to."""
    try:
        return _made(f"method.terms.{name}.loss", node, "a loss with")
    except InstantiationException:
        target = str(node["_target_"])
        if node.get("_partial_") or not inspect.isroutine(get_object(target)):
            raise
        raise ValueError(
            f"method.terms.{name}.loss: {target} is a function and was called without the term's inputs. Add"
            " _partial_: true, so that every step calls it."
        ) from None


def _made(key: str, node: Any, what: str) -> Any:
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{key}={node}: it is {what} its _target_.")
    return instantiate(node)


def asked_roles(settings: Config) -> tuple[str, ...]:
    """Names of the roles that a method takes anything from, beside the one that learns; in the order of the table."""
    method, asked = settings.method, set[str]()
    for term in build_objective(method):
        asked |= {reference.scope for reference in term.references()}
    rollout = method.rollout or {}
    if not isinstance(rollout, Mapping):
        raise ValueError(
            f"method.rollout={rollout}: choose one of the group, such as +rollout@method.rollout=on_policy."
        )
    asked |= {name for name in (rollout.get("role"), rollout.get("teacher")) if name is not None}  # they write text
    if method.student_wrapper is not None:
        asked.add(TEACHER)
    return tuple(name for name in table(settings) if name in asked and name != LEARNER)
