"""What a file that lies in a folder may name: the one gate for classes and functions that others wrote down.

A run or export folder may come from anybody, and its ``config.yaml`` names what is imported and called. Of these names
only such are built as a training needs; all others the user has to trust, in a command of their own.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from hydra.utils import get_object

# Where a name may begin; what it leads to is looked at too, since a module has whatever it imports under its own name.
ROOTS = (
    "kd_lightning",
    "torch.nn",
    "torch.optim",
    "torchvision",
    "timm",
    "transformers",
    "torchmetrics",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)
# Home of a class -> the names of its bases of which it must have one; "object" is any class.
CLASSES: dict[str, tuple[str, ...]] = {
    "kd_lightning.core": ("object",),
    "kd_lightning.data": ("object",),
    "kd_lightning.losses": ("object",),
    "kd_lightning.models": ("object",),
    "kd_lightning.report.loggers": ("object",),
    "kd_lightning.tasks": ("kd_lightning.tasks.base.Task",),
    "torch.nn": ("torch.nn.modules.module.Module",),
    "torch.optim": ("torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    "torchvision.models": ("torch.nn.modules.module.Module",),
    "torchvision.ops": ("torch.nn.modules.module.Module",),
    "torchvision.transforms": ("object",),
    "timm.layers": ("torch.nn.modules.module.Module",),
    "timm.loss": ("torch.nn.modules.module.Module",),
    "timm.models": ("torch.nn.modules.module.Module",),
    "timm.optim": ("torch.optim.optimizer.Optimizer",),
    "timm.scheduler": ("timm.scheduler.scheduler.Scheduler",),
    "transformers": (
        "transformers.modeling_utils.PreTrainedModel",
        "transformers.configuration_utils.PreTrainedConfig",
        "torch.optim.optimizer.Optimizer",
    ),
    # Those of pictures, sounds and texts fetch nets and word lists, and read them from paths.
    "torchmetrics.aggregation": ("torchmetrics.metric.Metric",),
    "torchmetrics.classification": ("torchmetrics.metric.Metric",),
    "torchmetrics.clustering": ("torchmetrics.metric.Metric",),
    "torchmetrics.detection": ("torchmetrics.metric.Metric",),
    "torchmetrics.nominal": ("torchmetrics.metric.Metric",),
    "torchmetrics.regression": ("torchmetrics.metric.Metric",),
    "torchmetrics.retrieval": ("torchmetrics.metric.Metric",),
    "torchmetrics.segmentation": ("torchmetrics.metric.Metric",),
    "torchmetrics.wrappers": ("torchmetrics.metric.Metric",),
    "lightning.pytorch.callbacks": ("lightning.pytorch.callbacks.callback.Callback",),
    "lightning.pytorch.loggers": ("lightning.pytorch.loggers.logger.Logger",),
}
# Homes of functions; of timm only those that build one of its models.
FUNCTIONS = (
    "kd_lightning.core.rates",
    "kd_lightning.losses",
    "kd_lightning.models",
    "torch.nn.functional",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms.functional",
    "torchvision.transforms.v2.functional",
    "transformers.optimization",
)
MODELS_OF_TIMM = "timm.models"
# Hydra's own ways to a name: what they are asked for is what is judged.
LOOK_UPS = ("hydra.utils.get_object", "hydra.utils.get_class", "hydra.utils.get_method")
# Arguments by which a library reads a pickle, or fetches code and runs it.
REFUSED = (
    "allow_pickle",
    "checkpoint_path",
    "custom_load",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "trust_remote_code",
)
# A reference that is computed (``${oc.decode:...}``) may become anything after it was looked at.
_COMPUTED = re.compile(r"\$\{[^}]*:")


@dataclass(frozen=True)
class Trust:
    """What the user trusts beside what every training needs.

    Attributes:
        packages: Everything in them.
        names: These classes and functions alone: those that the command itself builds.
        everything: Whatever a folder names, and files that run code when they are read.
    """

    packages: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    everything: bool = False

    @classmethod
    def of_command(cls, content: Mapping[str, Any]) -> Trust:
        """That of a command: its ``trust``, and what its own configuration names.

        Args:
            content: The composed configuration as plain values.

        Raises:
            ValueError: ``trust`` is neither true nor names of packages.
        """
        named = frozenset(name for _, name in _named(content))
        return cls.given(content.get("trust"), named)

    @classmethod
    def given(cls, said: Any, names: frozenset[str] = frozenset()) -> Trust:
        """What ``trust`` says: true, a package, or a list of them.

        Raises:
            ValueError: It says something else.
        """
        if said is None or isinstance(said, bool):
            return cls((), names, bool(said))
        packages = (said,) if isinstance(said, str) else tuple(said) if isinstance(said, Iterable) else (None,)
        if not all(isinstance(one, str) and all(part.isidentifier() for part in one.split(".")) for one in packages):
            raise ValueError(f"trust={said}: give packages, as in trust=[my_package], or trust=true.")
        return cls(packages, names)


_now = Trust()
P = ParamSpec("P")
T = TypeVar("T")


def current_trust() -> Trust:
    """That of the running command; of a program that imports this package, nothing."""
    return _now


@contextmanager
def trusting(said: Trust | bool | str | Iterable[str]) -> Iterator[None]:
    """Trust more within a block: packages, or True for all that a folder names.

    Example:
        >>> with trusting("my_package"):
        ...     current_trust().packages
        ('my_package',)
    """
    global _now
    before = _now
    _now = said if isinstance(said, Trust) else Trust.given(said)
    try:
        yield
    finally:
        _now = before


def reads_back(content: Any) -> None:
    """What the running command composes later, in plain values, it will find in its own folders too."""
    global _now
    _now = replace(_now, names=_now.names | {name for _, name in _named(content)})


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """A function that has the trust of now also in a process that is started later; can be pickled."""
    return partial(_carried, _now, function)


def _carried(trust: Trust, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    global _now
    _now = trust
    return function(*args, **kwargs)


def check_named(content: Any, where: str) -> None:
    """Refuse what a folder may not name, before any of it is built.

    Args:
        content: Plain values of a file, references unresolved.
        where: The file, for messages.

    Raises:
        ValueError: With what to do.
    """
    if _now.everything:
        return
    for path, key, said in _walk(content):
        if isinstance(said, str) and _COMPUTED.search(said):
            raise ValueError(f"{where}: {path} is a reference that is computed ({said}), which no run writes; {RISK}")
        if key in REFUSED and said not in (None, False):
            raise ValueError(
                f"{where}: {path} may let a library run code ({key}); {RISK} If you know who made it: trust=true."
            )
    for path, name in _named(content):
        if not _is_allowed(name):
            raise ValueError(f"{where}: {path} names {name}, which is not built from a folder; {RISK} {_advice(name)}")


RISK = "a folder that somebody else made could run any code here."


def _advice(name: str) -> str:
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names or not package.isidentifier():
        return "Do not use it."
    return f"Where you know that package, and who made the folder, name it: trust=[{package}]"


def _walk(node: Any, path: str = "", key: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """A configuration and every part of it: where it stands, under which key, and what it is."""
    yield path, key, node
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _walk(value, f"{path}.{name}" if path else str(name), name)
    elif isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _walk(item, f"{path}[{i}]")


def _named(content: Any) -> Iterator[tuple[str, str]]:
    """Every class, function and task that a configuration names, and where; of tasks those of other packages."""
    for path, key, value in _walk(content):
        if isinstance(value, Mapping) and "_target_" in value:
            found = value.get("path") if str(value["_target_"]) in LOOK_UPS else value["_target_"]
            yield f"{path}._target_" if path else "_target_", str(found)
        elif key in ("task", "tasks"):
            several = value if isinstance(value, (list, tuple)) else [value]
            yield from ((path, str(one)) for one in several if isinstance(one, str) and _is_dotted(one))


def _is_dotted(task: str) -> bool:
    return "." in task and not task.startswith("${")


def _is_allowed(name: str) -> bool:
    if name in _now.names:
        return True
    if not _within(name, (*ROOTS, *_now.packages)):
        return False
    try:
        home, found = _found(name)
    except Exception:  # it is not there, so nothing of it can be built; where it is built, the error says so
        return not name.startswith("_")
    return _within(home, _now.packages) or _is_needed(found, home)


@cache
def _found(name: str) -> tuple[str, Any]:
    """What a name leads to, and the module that it was written in."""
    found = get_object(name)
    described = found if inspect.isclass(found) or inspect.isroutine(found) else type(found)
    return str(getattr(described, "__module__", "")), found


def _is_needed(found: Any, home: str) -> bool:
    """Whether a training may need it: a class of a kind that trainings build, or a function that builds or computes."""
    if inspect.isclass(found):
        bases = {f"{one.__module__}.{one.__qualname__}" for one in found.__mro__} | {"object"}
        return any(_within(home, (place,)) and bases & {*wanted} for place, wanted in CLASSES.items())
    plain = inspect.isfunction(found) and found.__qualname__.isidentifier() and not found.__name__.startswith("_")
    if plain and _within(home, (MODELS_OF_TIMM,)):
        from timm import create_model, is_model

        return found is create_model or is_model(found.__name__)
    return plain and _within(home, FUNCTIONS)


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)
