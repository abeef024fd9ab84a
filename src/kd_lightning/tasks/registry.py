"""The tasks by name: what ``data.task`` may be."""

from __future__ import annotations

import inspect
from functools import cache

from hydra.utils import get_object

from kd_lightning import tasks
from kd_lightning.config.explain import near
from kd_lightning.files.defined import defined_in
from kd_lightning.tasks.base import Task


@cache
def known_tasks() -> dict[str, Task]:
    """Every task of this folder: the classes of its files that have a name of their own."""
    found: dict[str, Task] = {}
    for module, kind in defined_in(tasks):
        if inspect.isclass(kind) and issubclass(kind, Task) and kind.__module__ == module and kind.name:
            found[kind.name] = kind()
    return found


@cache
def find_task(name: str) -> Task:
    """The task of a name, or at the dotted path of one in another package: of its class, or of an instance.

    Raises:
        ValueError: There is none.
    """
    if name in known_tasks():
        return known_tasks()[name]
    if "." not in name:
        raise ValueError(
            f"data.task={name}: there is no such task. {near(name, list(known_tasks()))} For one of your own give its"
            " dotted path (my_package.my_module.MyTask)."
        )
    try:
        found = get_object(name)
    except Exception as error:
        raise ValueError(f"data.task={name} cannot be imported: {error}") from error
    task = found() if inspect.isclass(found) else found
    if not isinstance(task, Task):
        raise ValueError(f"data.task={name} is no kd_lightning.tasks.base.Task, but {type(task).__name__}.")
    task.name = name
    return task
