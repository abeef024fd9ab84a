"""The search: for every method its own Optuna study with the same number of trials, resumable, on validation only."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from kd_lightning.config.command import Command
from kd_lightning.core.abort import UserAbortError
from kd_lightning.experiment.settle import decided
from kd_lightning.files.runs import digest
from kd_lightning.tuning.options import Options, Search
from kd_lightning.tuning.stop import CURVE, STOPPED

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("hydra/sweeper=tune needs Optuna: pip install 'kd-lightning[tune]'") from error
from optuna.trial import FrozenTrial, TrialState

from kd_lightning.tuning.space import Dimension, from_override, of_method
from kd_lightning.tuning.winner import report

log = logging.getLogger("kd_lightning")

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
# A setting of these parts that is searched would make another teacher for every value: it is held for the teacher.
_SHARED = ("optimizer.", "scheduler.", "trainer.", "callbacks.")


def tune(
    options: Options, loader: ConfigLoader, config: DictConfig, launcher: Launcher, arguments: list[str]
) -> dict[str, list[FrozenTrial]]:
    """Search every method, write the winners, print them; returns the winning trials by method.

    Args:
        options: How.
        loader: Hydra's.
        config: The configuration of the command, without its sweeps.
        launcher: Runs the trials.
        arguments: The overrides of the command.

    Raises:
        ValueError: Nothing to search, or the first trial failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    searches = list(_searches(options, loader, config, arguments))
    winners, job = {}, 0
    for search in searches:
        study = _open(search, options, config, folder)
        job = _run(study, search, options, launcher, folder, job)
        winners[search.method] = (search, study)
    return report(winners, loader, config, options, folder)


def _searches(options: Options, loader: ConfigLoader, config: DictConfig, arguments: list[str]) -> Iterator[Search]:
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(arguments)
    keys = {override.get_key_element().lstrip("+") for override in given}
    given += parser.parse_overrides([f"{k}={v}" for k, v in options.params.items() if k not in keys])
    swept = [override for override in given if override.is_sweep_override()]
    methods = [override for override in swept if override.key_or_group == "method" and override.package is None]
    fixed = [override for override in given if not override.is_sweep_override()]
    choices = parser.parse_overrides([f"method={name}" for m in methods for name in m.sweep_string_iterator()])
    for own in [[*fixed, choice] for choice in choices] or [fixed]:
        cfg = loader.load_sweep_config(config, [str(override.input_line) for override in own])
        space = [from_override(override) for override in swept if override not in methods]
        named = {dimension.name.lstrip("+") for dimension in space} | keys
        space += [one for one in of_method(cfg.method, options.space) if one.name not in named]
        if not space:
            raise ValueError(
                f"Nothing to search for method {cfg.method.name}: name settings, such as"
                " 'method.terms.kd.loss.temperature=interval(1,8)' or model@student=resnet8,resnet14, or take"
                " hydra.sweeper.space=[temperature,weights,taps]."
            )
        yield Search(cfg.method.name, cfg, own, space, list(_held(cfg, space)))


def _held(cfg: DictConfig, space: Sequence[Dimension]) -> Iterator[str]:
    """The teacher keeps the value of what is searched for the student: one teacher for all trials."""
    for dimension in space:
        key = dimension.name.lstrip("+")
        value = OmegaConf.select(cfg, key)
        if not key.startswith(_SHARED) or OmegaConf.is_config(value) or cfg.teacher.fit is None:
            continue
        if value is not None and OmegaConf.select(cfg, f"teacher.fit.{key}") is None:
            yield f"++teacher.fit.{key}={value}"


# -- one method ------------------------------------------------------------------------------------------------------


def _open(search: Search, options: Options, config: DictConfig, folder: Path) -> optuna.Study:
    """The study of this very search, from an earlier start where there was one."""
    lines = sorted(str(override.input_line) for override in search.fixed)
    space = [[dimension.name, str(dimension.distribution)] for dimension in search.space]
    name = f"{config.name}-{search.method}-{digest([lines, space, list(options.objectives)])}"
    storage = f"sqlite:///{folder / 'trials.db'}"
    directions = [_direction(objective, search.cfg) for objective in options.objectives]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    for trial in study.get_trials(states=(TrialState.RUNNING,), deepcopy=False):  # left by a killed sweep
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    # A sampler that started with the same seed again would draw what it drew before.
    seed = options.seed + len(study.trials)
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study.sampler = samplers[options.sampler](seed=seed)
    return study


def _direction(objective: str, cfg: DictConfig) -> Literal["maximize", "minimize"]:
    mode = decided(Command(cfg)).raw.metrics.mode
    return "maximize" if objective == "validation" and mode == "max" else "minimize"


def _counted(study: optuna.Study) -> int:
    return len(study.get_trials(states=_COUNTED, deepcopy=False))


def _run(study: optuna.Study, search: Search, options: Options, launcher: Launcher, folder: Path, job: int) -> int:
    """Trials until there are enough; returns the number of the next job."""
    done = _counted(study)
    log.info(
        f"Tuning {search.method}: {options.trials} trials"
        + (f", {done} done earlier" if done else "")
        + f"; searching {', '.join(dimension.name for dimension in search.space)}"
    )
    distributions = {dimension.name: dimension.distribution for dimension in search.space}
    failed = 0
    while (left := options.trials - _counted(study)) > 0:
        trials = [study.ask(distributions) for _ in range(min(options.batch, left))]
        extra = [f"tune.objectives=[{','.join(options.objectives)}]", *_stopping(study, search, options, folder)]
        jobs = [[*search.overrides(trial.params), *extra] for trial in trials]
        returns = launcher.launch(jobs, initial_job_idx=job)
        job += len(jobs)
        for trial, returned in zip(trials, returns, strict=True):
            error = _tell(study, trial, returned, options)
            failed += error is not None
            if error is not None and (_counted(study) == 0 or failed > options.trials):
                raise error
        _progress(study, options, [trial.number for trial in trials])
    return job


def _stopping(study: optuna.Study, search: Search, options: Options, folder: Path) -> list[str]:
    """Overrides that let the next trials stop early."""
    if not options.prune or len(options.objectives) > 1 or search.cfg.job != "train":
        return []
    curves = [t.intermediate_values for t in study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False)]
    if len(curves) < 4:
        return ["tune.curve=true"]
    first = max(1, int(search.cfg.trainer.max_epochs) // 5)
    epochs = {epoch for curve in curves for epoch in curve if epoch >= first}
    medians = {e: statistics.median(curve[e] for curve in curves if e in curve) for e in sorted(epochs)}
    path = folder / "medians" / f"{study.study_name}-{len(study.trials)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(medians))
    return ["tune.curve=true", f"tune.medians='{path.absolute()}'"]


def _tell(study: optuna.Study, trial: optuna.Trial, returned: JobReturn, options: Options) -> Exception | None:
    """Note the outcome; returns why it failed."""
    try:
        value = returned.return_value
        values = _values(value, options)
    except UserAbortError:
        raise
    except Exception as error:
        study.tell(trial, state=TrialState.FAIL)
        return error
    hydra_cfg = returned.hydra_cfg
    output = Path(hydra_cfg.hydra.runtime.output_dir) if hydra_cfg is not None else None
    trial.set_user_attr("folder", str(output))
    if len(options.objectives) == 1 and output is not None and (output / CURVE).is_file():
        for epoch, seen in json.loads((output / CURVE).read_text()).items():
            trial.report(seen, int(epoch))
    if values is None:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)
    return None


def _values(value: Any, options: Options) -> list[float] | None:
    """The objectives that a job returned; None for a trial that was stopped.

    Raises:
        ValueError: Not as many finite numbers as there are objectives.
    """
    if value == STOPPED:
        return None
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    good = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(good) != len(options.objectives):
        raise ValueError(
            f"The job returned {value}, not a number for each of {', '.join(options.objectives)}. job=train does, where"
            " there is a validation split (data.val_fraction=0.1)."
        )
    return good


def _progress(study: optuna.Study, options: Options, numbers: Sequence[int]) -> None:
    for trial in (study.trials[number] for number in numbers):
        state = trial.state.name.lower()
        values = ", ".join(f"{n} {v:.4g}" for n, v in zip(options.objectives, trial.values or [], strict=False))
        log.info(f"Trial {trial.number}: {state}" + (f", {values}" if values else ""))
