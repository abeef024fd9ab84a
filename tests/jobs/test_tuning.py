"""Tuning: chosen on validation, one teacher, resumable, equal budgets, and a winner that runs."""

import json
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kd_lightning.tuning.space import from_override, of_method
from tests.conftest import TINY

TRAIN = [*TINY, "trainer.max_epochs=1", "job=train", "name=t"]
TUNE = ["-m", *TRAIN, "hydra/sweeper=tune"]


def trials(prefix="t-"):
    storage = "sqlite:///outputs/tuning/trials.db"
    (name,) = (n for n in optuna.get_all_study_names(storage) if n.startswith(prefix))
    return optuna.load_study(study_name=name, storage=storage)


def trainings(text, what=""):
    return sum(": training ..." in line and what in line for line in text.splitlines())


def test_the_winner_is_the_best_on_validation_and_runs_as_an_experiment(cli):
    command = [*TUNE, "hydra.sweeper.trials=2", "optimizer.lr=tag(log,interval(0.001,0.2))"]
    outcome = cli(*command)
    assert outcome.code == 0, outcome.text
    # What is tuned for the student does not make another teacher.
    assert trainings(outcome.text, "teacher") == 1
    assert len(list(Path("outputs/teachers").glob("resnet8-*"))) == 1
    study = trials()
    assert set(study.best_trial.params) == {
        "optimizer.lr",
        "method.terms.kd.loss.temperature",
        "method.terms.kd.weight",
    }
    records = [json.loads(p.read_text()) for p in Path("outputs/t/multirun").rglob("arm.json")]
    assert study.best_value == pytest.approx(max(r["validation"]["val/top1"] for r in records), abs=1e-6)

    assert "--config-dir outputs/tuning +experiment=t_kd_tuned" in outcome.text
    winner = cli("--config-dir", "outputs/tuning", "+experiment=t_kd_tuned", "job=train")
    assert winner.code == 0, winner.text
    assert trainings(winner.text, "teacher") == 0
    best = Path(study.best_trial.user_attrs["folder"])
    one, two = (OmegaConf.load(folder / "config.yaml") for folder in (best, winner.folder))
    for part in ("method", "optimizer", "student", "data", "trainer"):
        assert one[part] == two[part], part
    assert json.loads((winner.folder / "arm.json").read_text())["validation"]["val/top1"] == study.best_value

    # Again: nothing is left to do; then one more, and one that was killed is tried once more.
    again = cli(*command)
    assert again.code == 0, again.text
    assert "2 done earlier" in again.text
    assert trainings(again.text) == 0
    killed = trials().ask({name: study.best_trial.distributions[name] for name in study.best_trial.params})
    more = cli(*[a if "trials=" not in a else "hydra.sweeper.trials=3" for a in command])
    assert more.code == 0, more.text
    assert trainings(more.text) == 1
    assert trials().trials[-1].params == killed.params
    assert [t.state.name for t in trials().trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


def test_every_method_has_the_same_budget(cli):
    outcome = cli(*TUNE, "hydra.sweeper.trials=2", "method=kd,dkd")
    assert outcome.code == 0, outcome.text
    assert trainings(outcome.text, "+ kd") == 2
    assert trainings(outcome.text, "+ dkd") == 2
    assert set(trials("t-dkd-").best_trial.params) == {
        "method.terms.dkd.loss.temperature",
        "method.terms.dkd.weight.value",
    }
    written = OmegaConf.load("outputs/tuning/experiment/t_dkd_tuned.yaml")
    assert {"override /method": "dkd"} in written.defaults
    assert set(written.method.terms.dkd) == {"loss", "weight"}


def test_accuracy_and_latency_give_all_that_no_other_beats(cli):
    command = [a for a in TUNE if not a.startswith("model@student") and a != "hydra/sweeper=tune"]
    sweep = ["hydra/sweeper=tune_student", "hydra.sweeper.trials=3", "model@student=mlp,resnet8", "method=ce"]
    outcome = cli(*command, *sweep, "hydra.sweeper.objectives=[validation,latency,parameters]")
    assert outcome.code == 0, outcome.text
    study = trials()
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    sizes = {t.params["model@student"]: t.values[2] for t in study.trials}
    assert all(t.values[1] > 0 for t in study.trials)
    assert all(value == int(value) for value in sizes.values())
    files = sorted(p.name for p in Path("outputs/tuning/experiment").iterdir())
    assert len(files) == len(study.best_trials)
    assert files[0] == "t_ce_tuned.yaml"
    chosen = OmegaConf.load(f"outputs/tuning/experiment/{files[0]}").defaults
    first = max(study.best_trials, key=lambda t: t.values[0])
    assert {"override /model@student": first.params["model@student"]} in chosen


def test_a_trial_behind_the_median_is_stopped(cli):
    three = ["trainer.max_epochs=3"]
    Path("medians.json").write_text(json.dumps({"0": 0.0, "1": 1.1, "2": 1.1}))
    outcome = cli(*TRAIN, *three, "method=ce", "tune.medians=medians.json")
    assert outcome.code == 0, outcome.text
    assert "Stopped after epoch 1" in outcome.text
    assert not (outcome.folder / "arm.json").exists()
    assert list(json.loads((outcome.folder / "curve.json").read_text())) == ["0", "1"]
    assert json.loads((outcome.folder / "status.json").read_text())["result"] == "stopped"

    # The medians of a search are those of its finished trials; the fifth trial is the first that has them.
    sweep = ["hydra/sweeper=tune", "hydra.sweeper.trials=5", "optimizer.lr=interval(0.01,0.1)"]
    outcome = cli("-m", *TRAIN, *three, "method=ce", *sweep)
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("tune.medians=") == 1
    done = sorted(Path("outputs/t/multirun").glob("*/[0-3]/curve.json"))
    curves = [json.loads(p.read_text()) for p in done]
    (written,) = Path("outputs/tuning/medians").iterdir()
    medians = json.loads(written.read_text())
    assert set(medians) == {"1", "2"}
    assert medians["2"] == pytest.approx(sum(sorted(c["2"] for c in curves)[1:3]) / 2)
    assert {t.state.name for t in trials().trials} <= {"COMPLETE", "PRUNED"}
    assert trials().trials[0].intermediate_values == {int(k): v for k, v in curves[0].items()}


def test_two_trials_at_once_train_one_teacher(cli):
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.batch=2", "hydra.sweeper.trials=2"]
    outcome = cli(*TUNE, *parallel)
    assert outcome.code == 0, outcome.text
    assert [t.state.name for t in trials().trials] == ["COMPLETE", "COMPLETE"]
    (teacher,) = Path("outputs/teachers").glob("resnet8-*")
    assert len(list(teacher.glob("logs/version_*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.sweeper.space=[]"], "Nothing to search for method kd"),
        (["hydra.sweeper.space=[width]"], "There are: temperature, weights, taps"),
        (["hydra.sweeper.sampler=ax"], "choose tpe or random"),
        (["hydra.sweeper.trials=0"], "must be at least 1"),
        (["hydra.sweeper.objectives=[latncy]"], "Did you mean latency"),
        (["optimizer.lr=tag(log,interval(0,1))"], "a logarithmic interval needs 0 < low < high"),
        (["method=kdd,dkd"], "Did you mean kd"),
        (["optimizer.lrr=1,2"], "optimizer.lrr"),
    ],
)
def test_bad_input(cli, arguments, message):
    outcome = cli(*TUNE, *arguments)
    assert outcome.code == 1, outcome.text
    assert message in outcome.text
    assert trainings(outcome.text) == 0


def test_what_can_be_searched():
    def parsed(text):
        (override,) = OverridesParser.create().parse_overrides([text])
        found = from_override(override)
        return found, found.distribution

    found, numbers = parsed("a.b=interval(1,8)")
    assert (numbers.low, numbers.high, numbers.log) == (1.0, 8.0, False)
    assert found.overrides(3.14159265) == ["a.b=3.142"]
    found, numbers = parsed("a.b=int(interval(1,8))")
    assert isinstance(numbers, optuna.distributions.IntDistribution)
    assert parsed("a.b=tag(log,interval(0.1,8))")[1].log
    found, numbers = parsed("a.b=range(2,9,3)")
    assert (numbers.low, numbers.high, numbers.step) == (2, 8, 3)
    found, choices = parsed("model@student=resnet8,resnet14")
    assert choices.choices == ("resnet8", "resnet14")
    assert found.overrides("resnet14") == ["model@student=resnet14"]
    found, choices = parsed("a.b=choice('student.stages[0]','student.stages[1]')")
    (line,) = found.overrides(choices.choices[1])
    assert OverridesParser.create().parse_override(line).value() == "student.stages[1]"


def test_the_taps_of_a_method():
    term = {
        "loss": {"relu": True},
        "inputs": {"student": "student.stages[1]", "teacher": "teacher.preacts[1]!detach", "other": "teacher.logits"},
        "weight": {"_target_": "x", "value": 4.0},
    }
    method = OmegaConf.create({"terms": {"hint": term, "gone": None}})
    weight, taps = of_method(method, ["temperature", "weights", "taps"])
    assert weight.name == "method.terms.hint.weight.value"
    assert (weight.distribution.low, weight.distribution.high) == (0.4, 40.0)
    assert taps.overrides("-2") == [
        "method.terms.hint.inputs.student='student.stages[-2]'",
        "method.terms.hint.inputs.teacher='teacher.preacts[-2]!detach'",
    ]


def test_taps_are_searched_in_a_real_training(cli):
    sweep = ["hydra/sweeper=tune_taps", "hydra.sweeper.trials=1", "method=fitnet"]
    outcome = cli("-m", *TRAIN, *sweep)
    assert outcome.code == 0, outcome.text
    stage = trials().best_trial.params["method.terms.fitnet.stage"]
    (config,) = Path("outputs/t/multirun").rglob("0/config.yaml")
    assert OmegaConf.load(config).method.terms.fitnet.inputs.student == f"student.stages[{stage}]"
