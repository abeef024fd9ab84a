"""The winners of a search: printed, and written as experiments that run with ``+experiment=``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from kd_lightning.report.console import console as report_console

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from kd_lightning.tuning.options import Options, Search

# Settings of a command that are not part of an experiment.
_LEFT_OUT = ("hydra", "tune", "job", "study", "run", "runs", "inputs", "resume", "ckpt_path", "name")


def report(
    searches: Mapping[str, tuple[Search, optuna.Study]],
    loader: ConfigLoader,
    config: DictConfig,
    options: Options,
    folder: Path,
) -> dict[str, list[FrozenTrial]]:
    """Write and print the winners: the best trial, or all that no other beats in every objective.

    Args:
        searches: By method.
        loader: Hydra's.
        config: The configuration of the command.
        options: Those of the sweeper.
        folder: Experiments go to ``experiment/`` below it.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Winners, chosen on validation", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for title in ("Method", "Trials", *options.objectives, "Settings", "Experiment"):
        table.add_column(title, overflow="fold")
    found: dict[str, list[FrozenTrial]] = {}
    commands = []
    for method, (search, study) in searches.items():
        best = sorted(study.best_trials, key=lambda trial: -_sign(study) * trial.values[0])
        found[method] = best if len(options.objectives) > 1 else best[:1]
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        counts = f"{states.count('COMPLETE')} complete, {states.count('PRUNED')} stopped early"
        for rank, trial in enumerate(found[method]):
            name = f"{config.name}_{method}_tuned" + (f"_{rank}" if rank else "")
            path = folder / "experiment" / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            values = {o: f"{v:.4g}" for o, v in zip(options.objectives, trial.values, strict=True)}
            overrides = [o for d in search.space for o in d.overrides(trial.params[d.name])]
            header = f"Tuned: trial {trial.number} ({counts}); " + ", ".join(f"{o} {v}" for o, v in values.items())
            text = experiment(name, header, search.fixed, [*search.held, *overrides], loader)
            path.write_text(text)
            settings = "\n".join(overrides)
            table.add_row(*map(Text, [method, counts, *values.values(), settings, name]))
            commands.append(_command(name, folder, config))
    console = report_console()
    console.print(table)
    for command in commands:
        console.print(command, soft_wrap=True, highlight=False, markup=False)
    return found


def _sign(study: optuna.Study) -> float:
    return 1.0 if study.directions[0].name == "MAXIMIZE" else -1.0


def _command(name: str, folder: Path, config: DictConfig) -> str:
    own = next((s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"), None)
    if own is None:
        return f"Run it: python -m kd_lightning --config-dir {shlex.quote(str(folder))} +experiment={name}"
    search = shlex.quote(f"hydra.searchpath=[file://{folder.absolute()}]")
    return f"Run it: python -m kd_lightning --config-dir {shlex.quote(own)} {search} +experiment={name}"


def experiment(name: str, header: str, fixed: Sequence[Override], tuned: Sequence[str], loader: ConfigLoader) -> str:
    """The YAML of an experiment: the choices and settings of a command.

    Args:
        name: What it is called.
        header: Where it comes from.
        fixed: Overrides of the command.
        tuned: What the search found.
        loader: Knows what is a group.
    """
    parser = OverridesParser.create(config_loader=loader)
    bases, groups, values, notes = [], {}, OmegaConf.create({"name": name}), []
    for override in [*fixed, *parser.parse_overrides(list(tuned))]:
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] in _LEFT_OUT:
            continue
        if override.is_delete():
            notes.append(f"# Not part of it: {override.input_line}")
        elif key == "experiment":
            chosen = override.value()
            bases += [str(one) for one in (chosen if isinstance(chosen, list) else [chosen])]
        elif loader.get_group_options(key):
            group = f"/{key}" if override.package is None else f"/{key}@{override.package}"
            groups[group if override.is_add() else f"override {group}"] = override.value()
        else:
            OmegaConf.update(values, key, override.value(), force_add=True)
    choices = sorted(groups.items(), key=lambda item: item[0].startswith("override "))  # Hydra wants those last
    defaults: list[Any] = [*bases, *({group: value} for group, value in choices), "_self_"]
    body = OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults})) + OmegaConf.to_yaml(values)
    return "\n".join(["# @package _global_", f"# {header}", *notes, body])
