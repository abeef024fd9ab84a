"""Every shipped YAML composes and becomes objects (tests/jobs/test_experiments.py runs the experiments)."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kd_lightning.config.conf_dir import conf_dir
from kd_lightning.config.ranges import check_ranges
from kd_lightning.config.schema import register
from kd_lightning.config.values import plain, settings_of
from kd_lightning.files.runs import register_resolvers

CONF = conf_dir()


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register()
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_every_group_is_looked_at():
    tested = {
        "experiment",
        "data",
        "model",
        "method",
        "term",
        "optimizer",
        "scheduler",
        "trainer",
        "metrics",
        "rollout",
        "role",
    }
    assert {p.name for p in CONF.iterdir() if p.is_dir()} == tested | {"callbacks", "logger", "hydra"}


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments_compose(name):
    cfg = compose("config", [f"+experiment={name}"])
    assert cfg.name
    check_ranges(plain(settings_of(cfg)))
    assert cfg.method.terms


@pytest.mark.parametrize("name", choices("method"))
def test_methods_become_objectives(name):
    from kd_lightning.config.check import check_targets
    from kd_lightning.training.objective import build_objective

    cfg = compose("config", [f"method={name}"])
    assert cfg.method.name == ("ce" if cfg.method.by_task else name)
    assert set(cfg.method.info) >= {"kind", "paper", "year", "needs"}
    check_targets(cfg)
    objective = build_objective(settings_of(cfg).method)
    assert len(list(objective)) == len(cfg.method.terms)


@pytest.mark.parametrize("name", choices("term"))
def test_terms_become_terms(name):
    from kd_lightning.core.terms import Term

    node = compose("config", [f"+term@method.terms.extra={name}"]).method.terms.extra
    Term(name, instantiate(node.loss), node.inputs, 1.0)


@pytest.mark.parametrize("name", choices("rollout"))
def test_rollouts(name):
    node = compose("config", [f"+rollout@method.rollout={name}"]).method.rollout
    assert callable(instantiate(node))


@pytest.mark.parametrize("name", choices("role"))
def test_roles(name):
    from kd_lightning.config.roles import check_roles, followers, frozen

    model = [] if name == "ema" else ["+model@roles.b=resnet8"]
    settings = settings_of(compose("config", [f"+role@roles.b={name}", *model]))
    check_roles(settings)
    assert list(frozen(settings) | followers(settings)) == ["teacher", "b"]


@pytest.mark.parametrize("name", choices("optimizer"))
def test_optimizers(name):
    import torch

    optimizer = instantiate(compose("config", [f"optimizer={name}"]).optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize("name", choices("scheduler"))
def test_schedulers(name):
    import torch

    factory = instantiate(compose("config", [f"scheduler={name}"]).scheduler.factory)
    if name == "constant":
        assert factory is None
    else:
        assert factory(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)).state_dict()


@pytest.mark.parametrize("name", choices("metrics"))
def test_metrics(name):
    cfg = compose("config", [f"metrics={name}", "data=synthetic_text", "data.num_classes=3", "data.vocab_size=260"])
    assert cfg.metrics.monitor.partition("/")[2] in cfg.metrics.metrics
    assert {n: instantiate(node) for n, node in cfg.metrics.metrics.items()}


@pytest.mark.parametrize("name", choices("callbacks"))
def test_callbacks(name, tmp_path):
    from lightning.pytorch import Callback

    from kd_lightning.training.trainer import with_defaults

    for node in compose("config", [f"callbacks={name}"]).callbacks.values():
        assert isinstance(instantiate(with_defaults(node, dirpath=str(tmp_path))), Callback)


@pytest.mark.parametrize("name", choices("trainer"))
def test_trainers(name):
    """All but those that need a GPU become a Trainer."""
    import lightning.pytorch as pl
    import torch

    cfg = compose("config", [f"trainer={name}"])
    assert cfg.trainer.max_epochs
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        return
    ours = ("channels_last", "ema")
    pl.Trainer(**{k: v for k, v in cfg.trainer.items() if k not in ours and k != "precision"}, logger=False)


@pytest.mark.parametrize("name", choices("logger"))
def test_loggers(name, tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    from kd_lightning.training.trainer import build_loggers

    monkeypatch.setitem(sys.modules, "trackio", ModuleType("trackio"))  # an extra that need not be installed
    loggers = build_loggers(settings_of(compose("config", [f"logger={name}"])), tmp_path, "arm", "alone")
    assert len(loggers) == (0 if name == "csv" else 1)


def test_a_list_of_loggers():
    cfg = compose("config", ["logger=[wandb,tensorboard]"])
    assert set(cfg.logger) == {"wandb", "tensorboard"}
