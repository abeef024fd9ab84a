"""From configuration to objects: data, nets, roles, distiller, trainer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import get_object, instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from kd_lightning.conf_dir import conf_dir
from kd_lightning.core.distiller import Distiller
from kd_lightning.core.metrics import Evaluation
from kd_lightning.core.optim import Scheduler
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.speed import NoProfiler, keep_memory
from kd_lightning.core.terms import Objective, Stage, Term
from kd_lightning.data.base import SplitDataModule
from kd_lightning.data.sampler import count_views
from kd_lightning.jobs._cache import stored_teacher
from kd_lightning.jobs._placement import place_teacher
from kd_lightning.jobs._precision import settle_precision
from kd_lightning.jobs._taps import match_stages, propose_aliases
from kd_lightning.models.fold import fold_batchnorm
from kd_lightning.teachers.topk import TopKCall

log = logging.getLogger("kd_lightning")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


# -- data and nets ---------------------------------------------------------------------------------------------------


def build_data(cfg: DictConfig) -> SplitDataModule:
    """The data, prepared; what it found out is written into the configuration for the models."""
    data: SplitDataModule = instantiate(cfg.data)
    _check_metrics(cfg, data.task)
    data.prepare()
    with open_dict(cfg.data):
        for key, value in data.facts.items():
            if cfg.data.get(key) is None:
                cfg.data[key] = value
    return data


def _check_metrics(cfg: DictConfig, task: str) -> None:
    """The metrics must be of the data's task."""
    if cfg.metrics.tasks is None or task in cfg.metrics.tasks:
        return
    shipped: dict[str, Any] = {path.stem: OmegaConf.load(path) for path in sorted((conf_dir() / "metrics").iterdir())}
    fitting = [f"metrics={name}" for name, metrics in shipped.items() if task in metrics.tasks]
    raise ValueError(
        f"The metrics, chosen on {cfg.metrics.monitor}, are of data.task={' or '.join(cfg.metrics.tasks)}; for"
        f" data.task={task} take {' or '.join(fitting)}."
    )


def build_net(role: DictConfig, seed: int) -> nn.Module:
    """A net from its configuration, with its checkpoint where it has one; initial weights depend on the seed only.

    Raises:
        ValueError: Where the checkpoint is of another model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: nn.Module = instantiate(role.net)
    if role.checkpoint is not None:
        from kd_lightning.models.registry import load_weights

        load_weights(net, checkpoint_file(role.checkpoint))
    if role.get("body") is not None:
        from kd_lightning.models.registry import load_body

        load_body(net, checkpoint_file(role.body))
    return net


def checkpoint_file(path: str) -> Path:
    """The weights that a ``checkpoint`` setting means: a file, or a run folder's student.

    Raises:
        FileNotFoundError: Where there is nothing of the kind.
    """
    from kd_lightning.jobs._load import student_folder

    given = Path(path)
    if given.is_file():
        return given
    if given.is_dir():
        return student_folder(given) / "student.safetensors"
    raise FileNotFoundError(
        f"checkpoint={path}: no such file or run folder. Give a .safetensors file, a file that"
        " torch.load(weights_only=True) reads, or the folder of a finished run."
    )


def build_role(name: str, role: DictConfig, net: nn.Module, example: Mapping[str, Any], trainable: bool) -> Role:
    """A role with the aliases of its anatomy and those of the configuration on top."""
    taps: Any = OmegaConf.to_container(role.taps)
    call = instantiate(role.call)
    aliases = propose_aliases(name, net, call.arguments(example), taps)
    precision = None if trainable or role.get("precision") is None else _dtype(role.precision)
    if role.get("topk") is not None:
        call = TopKCall(call, role.topk)
    return Role(name, net, call, aliases, trainable=trainable, precision=precision)


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ValueError(f"teacher.precision={name}: choose {', '.join(_DTYPES)} or null.")
    return _DTYPES[name]


# -- distiller -------------------------------------------------------------------------------------------------------


def build_objective(method: DictConfig) -> Objective:
    """Terms and stages of a method."""
    terms = []
    for name, node in method.terms.items():
        if node is None:
            continue  # a term that an override took out
        weight = node.weight if isinstance(node.weight, (int, float)) else instantiate(node.weight)
        terms.append(Term(str(name), instantiate(node.loss), OmegaConf.to_container(node.inputs), weight))  # type: ignore[arg-type]
    stages = [
        Stage(tuple(s.terms), float(s.fraction), None if s.get("params") is None else tuple(s.params))
        for s in method.stages
    ]
    return Objective(terms, stages)


def needs_teacher(method: DictConfig) -> bool:
    """Whether a method takes anything from a teacher."""
    rollout = method.rollout or {}
    writes = "teacher" in (rollout.get("role"), rollout.get("teacher"))  # text that the student learns from
    if method.student_wrapper is not None or writes:
        return True
    terms = build_objective(method)
    return any(reference.scope == "teacher" for term in terms for reference in term.references())


def build_teacher(cfg: DictConfig, objective: Objective, teacher: nn.Module, example: Mapping[str, Any]) -> Role:
    """The live teacher, with batch norms folded where the terms cannot tell."""
    role = build_role("teacher", cfg.teacher, teacher, example, trainable=False)
    if cfg.teacher.fold and "image" in example and _only_features(objective, role):
        folded = fold_batchnorm(teacher, example["image"])
        role = build_role("teacher", cfg.teacher, folded, example, trainable=False)
    return role


def build_distiller(
    cfg: DictConfig, data: SplitDataModule, student: nn.Module, teacher: nn.Module | None, trainings: int = 1
) -> Distiller:
    """Roles, objective and optimiser joined; fails here where they do not fit together.

    Args:
        cfg: The arm's configuration.
        data: Prepared data; its order, views and stored signals are set to those of the arm.
        student: The net that learns.
        teacher: The teacher's net, or None.
        trainings: How many trainings of this command want the same of the teacher, for ``teacher.cache=auto``.

    Raises:
        ValueError: Where a net does not answer with the data's number of classes, or a reference leads nowhere.
    """
    # The order is the arm's own; the augmented views are the same for all, so that they can share a teacher cache.
    data.order_seed, data.num_views, data.signals = cfg.seed, count_views(cfg.data.get("views")), None
    example = data.ready(next(iter(data.loader("train", train=True))))
    objective = build_objective(cfg.method)
    roles = [build_role("student", cfg.student, student, example, trainable=True)]
    if teacher is not None:
        roles.append(build_teacher(cfg, objective, teacher, example))
    for role in roles:
        _check_classes(role, example, cfg)
    settle_precision(cfg, student, example)
    references = [reference for term in objective for reference in term.references()]
    match_stages(roles, references, {role.name: cfg[role.name].taps for role in roles})
    if teacher is not None:
        live = roles[1]
        roles[1], example = stored_teacher(cfg, data, live, teacher, references, example, trainings)
        if cfg.teacher.placement is not None:
            place_teacher(cfg, data, live, roles[0], example, cached=roles[1] is not live)
    rollout = instantiate(cfg.method.rollout)
    if hasattr(rollout, "attach"):
        rollout.attach(data)
    return Distiller(
        Roles(roles),
        objective,
        example,
        facts={**data.facts, "num_classes": data.num_classes, "num_samples": data.num_samples},
        optimizer=instantiate(cfg.optimizer),
        scheduler=None if cfg.scheduler.factory is None else Scheduler(**_scheduler(cfg.scheduler)),
        evaluation=Evaluation(
            {str(name): instantiate(node) for name, node in cfg.metrics.metrics.items()}, dict(cfg.metrics.inputs)
        ),
        rollout=rollout,
        seed=cfg.seed,
        channels_last=cfg.trainer.channels_last,
        compile=cfg.compile,
    )


def _only_features(objective: Objective, role: Role) -> bool:
    """Whether the terms ask the role for signals and features only: those are the same when batch norms are folded."""
    references = [r for term in objective for r in term.references() if r.scope == role.name]
    known = {*role.call.provides, *role.aliases}
    return all(r.flag != "module" and r.name in known for r in references)


def _scheduler(node: DictConfig) -> dict[str, Any]:
    return {"factory": instantiate(node.factory), "interval": node.interval, "monitor": node.monitor}


def _check_classes(role: Role, example: Mapping[str, Any], cfg: DictConfig) -> None:
    """Teacher and student must answer with the data's classes, or tokens."""
    task = cfg.data.get("task", "classification")
    if task == "embedding" or "logits" not in role.call.provides:
        return
    key, what = ("vocab_size", "tokens") if task in ("causal_lm", "masked_lm") else ("num_classes", "classes")
    own = f"teacher_{key}" if role.name == "teacher" and cfg.data.get("teacher_tokenizer") is not None else key
    expected = cfg.data[own]
    training = role.net.training
    role.net.eval()
    try:
        with torch.no_grad():
            classes = role.call(role.net, example)["logits"].shape[-1]
    except IndexError as error:  # of an embedding
        raise ValueError(
            f"The {role.name} does not know all {cfg.data[own]} tokens of the data ({cfg.data.name}), or takes shorter"
            f" texts. Set {role.name}.net.{key}=${{data.{own}}}, or a larger {role.name}.net.max_length."
        ) from error
    role.net.train(training)
    if classes != expected:
        raise ValueError(
            f"The {role.name} answers with {classes} {what}, the data ({cfg.data.name}) has {expected}."
            f" Set {role.name}.net.{key}=${{data.{own}}}, or give a checkpoint that was trained on these {what}."
        )


# -- trainer ---------------------------------------------------------------------------------------------------------

_OURS = ("channels_last", "ema")


def build_loggers(cfg: DictConfig, folder: Path, name: str, kind: str) -> list[Any]:
    """The configured loggers; they take of name, group, job_type, config and save_dir what they know."""
    told_by = {
        "kind": kind,
        "model": cfg.student.name,
        "method": cfg.method.name,
        "data": cfg.data.name,
        "seed": cfg.seed,
    }
    # wandb writes from a process of its own, which keeps the working folder of its start: a relative path is not ours.
    known = {
        "save_dir": str(folder.absolute()),
        "name": name,
        "job_type": kind,
        "group": run_name(folder),
        "config": told_by,
    }
    return [instantiate(_with(node, **known)) for node in cfg.logger.values() if node is not None]


def run_name(folder: Path) -> str:
    """What the arms of one pipeline have in common: the run's folder, or where nobody runs under Hydra, the arm's."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized() or OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        return folder.name
    return Path(HydraConfig.get().runtime.output_dir).name


def build_trainer(cfg: DictConfig, folder: Path, label: str, kind: str) -> pl.Trainer:
    """Lightning's Trainer with callbacks and loggers of the configuration; a CSV log is always written."""
    options = {k: v for k, v in cfg.trainer.items() if k not in _OURS}
    callbacks = [
        instantiate(_with(node, dirpath=str(folder / "checkpoints")))
        for name, node in cfg.callbacks.items()
        if node is not None and (name != "progress_bar" or cfg.trainer.enable_progress_bar)
    ]
    if cfg.trainer.ema is not None:
        callbacks.append(pl.callbacks.EMAWeightAveraging(decay=cfg.trainer.ema))
    if cfg.method.stages and options["strategy"] in ("ddp", "ddp_spawn"):
        options["strategy"] += "_find_unused_parameters_true"  # a stage leaves out parts of the student
    keep_memory()
    plain: dict[str, Any] = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()}
    return pl.Trainer(
        **plain,
        callbacks=callbacks,
        logger=[CSVLogger(folder, name="logs"), *build_loggers(cfg, folder, label, kind)],
        default_root_dir=str(folder),
        profiler=NoProfiler(),
        use_distributed_sampler=False,  # the sampler of the data knows ranks itself
    )


def _with(node: DictConfig, **defaults: Any) -> DictConfig:
    """The node with these arguments where its target takes them and it does not set them itself."""
    parameters = inspect.signature(get_object(node._target_)).parameters
    missing = {k: v for k, v in defaults.items() if k in parameters and node.get(k) is None}
    with open_dict(node):
        return OmegaConf.merge(node, missing)  # type: ignore[return-value]
