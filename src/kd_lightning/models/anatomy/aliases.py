"""Which places of the nets a method taps: proposed from their anatomy, matched, overridden by ``taps``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role
from kd_lightning.models.anatomy.find import anatomy

log = logging.getLogger("kd_lightning")

# Aliases that have one place for each stage.
STAGE_WISE = ("stages", "preacts", "preact_norms")


def propose_aliases(name: str, net: nn.Module, example: Any, taps: Mapping[str, Any]) -> dict[str, Any]:
    """Aliases of a role: those of the net's anatomy, and those of the configuration on top.

    ``all_stages`` keeps every stage, also where :func:`match_stages` leaves some out of ``stages``.

    Args:
        name: Name of the role, for messages.
        net: Its net.
        example: An input, or None.
        taps: The configuration's ``<role>.taps``.
    """
    aliases: dict[str, Any] = {}
    try:
        aliases.update(anatomy(net, example=example).aliases())
    except ValueError as error:  # nothing to propose: plain paths and `taps` still work
        log.debug(f"{name}: {error}")
    if aliases.get("stages"):
        aliases.setdefault("last_map", aliases["stages"][-1])  # ViTs: the last tokens
        aliases.setdefault("preact_norms", ())  # no batch norms before the activations: none to read
    for place, given in taps.items():
        if given is not None and not isinstance(given, str | Sequence):
            raise ValueError(f"The taps of the {name}: {place}={given}: give the path of a module, or a list of paths.")
    aliases.update({str(k): v if isinstance(v, str) else tuple(v) for k, v in taps.items() if v is not None})
    if "stages" in aliases:
        aliases.setdefault("all_stages", aliases["stages"])
    return aliases


def match_stages(roles: Sequence[Role], references: Iterable[Reference], taps: Mapping[str, Mapping[str, Any]]) -> None:
    """Where the nets have different numbers of stages, keep as many as the shortest has: the last ones.

    Counted from the end, stages are equally far from the logits and mostly at the same resolution. What the
    configuration names under ``<role>.taps`` is never cut.

    Args:
        roles: All roles; their aliases are changed.
        references: Those of the objective; without one to stages there is nothing to match.
        taps: Role's name -> the configuration's ``<role>.taps``.
    """
    counts = [len(r.aliases["stages"]) for r in roles if isinstance(r.aliases.get("stages"), tuple)]
    if not counts or min(counts) == max(counts) or not any(r.name in STAGE_WISE for r in references):
        return
    for role in roles:
        for alias in STAGE_WISE:
            places = role.aliases.get(alias)
            if not isinstance(places, tuple) or len(places) <= min(counts) or taps[role.name].get(alias) is not None:
                continue
            role.aliases[alias] = places[-min(counts) :]
            if alias == "stages":
                log.info(
                    f"  {role.name}: {len(places)} stages, the other net {min(counts)}: paired are the last"
                    f" {min(counts)}, {', '.join(role.aliases[alias])}. Others: {role.key}.taps.stages=[...]"
                )
