"""What of the settings decides a result: the one list, from which every key derives.

A key that forgets a setting takes one result for another; a key that has too many makes finished work anew. What is not
named here decides nothing: places, speed, what is shown, what is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from kd_lightning.config.roles import OWN, TEACHER
from kd_lightning.config.schedule import counted_anew

# fmt: off
TRAINING = (
    "student", "method", "optimizer", "scheduler", "callbacks", "metrics", "seed", "select", "protocol", "compile",
)
TRAINER = (
    "max_epochs", "max_steps", "precision", "strategy", "devices", "gradient_clip_val",
    "gradient_clip_algorithm", "accumulate_grad_batches", "deterministic", "limit_train_batches",
    "limit_val_batches", "sync_batchnorm", "channels_last", "ema",
)
# fmt: on
# Where and how the data is read, not what it is; its content counts by a hash.
NOT_OF_DATA = ("root", "num_workers", "on_device", "eval_batch_size", "source")
# Of a frozen net that was trained before, what decides its weights where the weights themselves are not at hand.
SOURCE = ("net", "checkpoint", "body", "fit", "seed")
# Of a frozen net, what decides its answers beside its weights.
ANSWERS = ("net", "call")
# Of a further role, what decides what is learnt from it beside the weights of one that is frozen.
ROLE = ("net", "call", "taps", "follows", "decay")
# What may differ between two starts of the same command.
NOT_OF_COMMAND = ("hydra", "resume", "ckpt_path", "logger", "run", "inputs", "predict", "trust")
# What a command could not set at first, and what says that it is not set: then it counts as it did.
ADDED: dict[str, Any] = {
    "roles": {},
    "serve.names": [],
    "data.source.delimiter": None,
    "data.source.layout": None,
    "data.source.missing": None,
}


def of_training(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What decides a training, beside the samples and the weights of the frozen roles.

    Args:
        settings: Its whole configuration, as plain values; of the further roles those that it has.
    """
    own = {key: _decided(settings[key]) for key in TRAINING}
    # What is known about a method is not what it does.
    own["method"] = {key: value for key, value in own["method"].items() if key != "info"}
    own["scheduler"] = counted_anew(settings)
    if settings.get("roles"):
        own["roles"] = {name: {key: role[key] for key in ROLE} for name, role in settings["roles"].items()}
    trainer = {key: settings["trainer"][key] for key in TRAINER}
    return [own, trainer, {key: value for key, value in settings["data"].items() if key not in NOT_OF_DATA}]


def of_weights(weights: Mapping[str, str]) -> list[Any]:
    """What the frozen roles of a training add to that: the hashes of their weights, by role.

    That of the teacher stands by itself, and further roles only where there are some: as identities ever were.
    """
    further = {name: value for name, value in weights.items() if name not in OWN}
    return [weights.get(TEACHER), *([further] if further else [])]


def of_recipe(settings: Mapping[str, Any], taught: bool) -> dict[str, Any]:
    """What trainings of one recipe share: all that decides one of them, less its seed.

    Args:
        settings: The whole configuration of one of them, as plain values.
        taught: Whether it learns from others.
    """
    own, trainer, data = of_training(settings)
    del own["seed"]
    teacher = {key: settings["teacher"].get(key) for key in SOURCE} if taught else {}
    for name, role in (settings.get("roles") or {}).items():
        own["roles"][name] |= {key: role.get(key) for key in SOURCE}
    return {**own, "trainer": trainer, "data": data, "teacher": teacher}


def of_answers(role: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answers of a frozen role, beside its weights, its precision and the samples."""
    return {key: role[key] for key in ANSWERS}


def of_step(settings: Mapping[str, Any]) -> list[Any]:
    """What decides how long a step of the student takes, beside the batch and the machine."""
    return [settings["student"]["net"], settings["trainer"]["channels_last"]]


def of_command(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What two starts of one command share."""
    kept = {str(key): _unchecked(_decided(value)) for key, value in settings.items() if key not in NOT_OF_COMMAND}
    kept["roles"] = {name: _unchecked(role) for name, role in (kept.get("roles") or {}).items()}
    for path, absent in ADDED.items():
        *above, key = path.split(".")
        node = reduce(lambda one, name: one.get(name) or {}, above, kept)
        if key in node and node[key] in (None, absent):
            del node[key]
    return kept


def _unchecked(node: Any) -> Any:
    """A part of a command, less what is looked at before it (``teacher.check``, ``export.check``)."""
    return {key: value for key, value in node.items() if key != "check"} if isinstance(node, Mapping) else node


def _decided(node: Any) -> Any:
    """What a choice says, less the mark that the task has made it (or will)."""
    if not isinstance(node, Mapping):
        return node
    return {key: _decided(value) for key, value in node.items() if key != "by_task"}
