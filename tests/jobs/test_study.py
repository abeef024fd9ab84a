"""The honest comparison: what is trained, what is reused, who shares the work, and what is said in the end."""

import json
import logging
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from kd_lightning.files.lock import exclusive
from kd_lightning.measures.energy import EnergyMeter
from tests.conftest import TINY

BRIEF = ["compare.latency=false", "compare.robustness=false", "compare.cka=false"]
STUDY = [*TINY, *BRIEF, "job=study", "name=s", "trainer.max_epochs=1", "study.controls=[kd]"]


def cells(root="outputs/studies/s"):
    return {p.name: p for p in sorted(Path(root).glob("cells/[!.]*"))}


def trainings(text):
    return text.count(": training ...")


@pytest.fixture(autouse=True)
def plain_reports(monkeypatch):
    """Reports without their plots, which take most of the time and have tests of their own."""
    monkeypatch.setattr("kd_lightning.report.html.sections", lambda comparison: [])


@pytest.fixture
def one_thread():
    """Sums are the same in this process and in those that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_only_what_is_missing_is_trained(cli):
    outcome = cli(*STUDY, "study.methods=[dkd]", "seeds=[0,1]")
    assert outcome.code == 0, outcome.text
    assert trainings(outcome.text) == 1 + 3 * 2  # the teacher, and three arms under two seeds
    for line in ("from student alone (2 seeds", "student + dkd", "from student + kd", "not measured"):
        assert line in " ".join(outcome.text.split()), outcome.text
    numbers = json.loads((outcome.folder / "metrics.json").read_text())
    assert list(numbers["contrasts"]) == ["student + dkd", "student + kd"]
    assert [(c["arm"], c["reference"]) for c in numbers["further_contrasts"]] == [("student + dkd", "student + kd")]
    study = json.loads((outcome.folder / "study.json").read_text())
    assert set(study["arms"]) == {"teacher", "student alone", "student + kd", "student + dkd"}
    assert all(arm["epochs"] == [1, 1] for name, arm in study["arms"].items() if name != "teacher")
    assert set(study["arms"]["student + dkd"]["test"]) == {"last", "best"}

    before = {name: (folder / "arm.json").stat().st_mtime_ns for name, folder in cells().items()}
    more = cli(*STUDY, "study.methods=[dkd,sp]", "seeds=[0,1,2]")
    assert more.code == 0, more.text
    assert "12 trainings of resnet8, 6 finished earlier" in more.text
    assert trainings(more.text) == 6
    assert {name: cells()[name].joinpath("arm.json").stat().st_mtime_ns for name in before} == before
    assert cli(*STUDY, "study.methods=[dkd]", "seeds=[0,1]", "optimizer.lr=0.01").text.count("finished earlier") == 0

    # Other jobs take the folder of a study for its best judged student.
    judged = cli("job=evaluate", f"run={more.folder}")
    assert judged.code == 0, judged.text
    assert "cells/dkd-" in judged.text or "cells/sp-" in judged.text


def test_a_study_is_the_same_training_as_a_pipeline_and_as_one_in_two_processes(cli, one_thread):
    pipeline = cli(*TINY, *BRIEF, "trainer.max_epochs=1", "export.formats=[]", "seeds=[0,1]")
    assert pipeline.code == 0, pipeline.text
    outcome = cli(*STUDY, "seeds=[0,1]", "study.workers=2")
    assert outcome.code == 0, outcome.text
    assert trainings(outcome.text) == 4
    assert "[0] " in outcome.text
    assert "[1] " in outcome.text
    for seed in (0, 1):
        for method, arm in (("ce", "alone"), ("kd", "kd")):
            one = load_file(pipeline.folder / arm / f"seed_{seed}" / "test.safetensors")
            (folder,) = (f for name, f in cells().items() if name.startswith(f"{method}-{seed}-"))
            assert torch.equal(one["logits"], load_file(folder / "test.safetensors")["logits"])
            assert json.loads((folder / "arm.json").read_text())["energy_joules"] is None  # nobody can say whose


def test_the_jobs_of_a_sweep_share_the_trainings(cli):
    outcome = cli("-m", *STUDY, "study.part=0,1")
    assert outcome.code == 0, outcome.text
    assert trainings(outcome.text) == 3
    assert len(list(Path().rglob("study.json"))) == 2


def test_what_another_process_trains_is_waited_for(cli):
    assert cli(*STUDY).code == 0
    (folder,) = (f for name, f in cells().items() if name.startswith("kd-"))
    (folder / "arm.json").rename(folder / "kept.json")
    held, told = threading.Event(), threading.Event()

    def other():
        with exclusive(folder.parent / f".{folder.name}.lock"):
            held.set()
            assert told.wait(120)
            (folder / "kept.json").rename(folder / "arm.json")  # it finished

    handler = logging.Handler()
    handler.emit = lambda record: told.set() if "waiting" in record.getMessage() else None
    logging.getLogger("kd_lightning").addHandler(handler)
    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    outcome = cli(*STUDY)
    told.set()
    thread.join()
    logging.getLogger("kd_lightning").removeHandler(handler)
    assert outcome.code == 0, outcome.text
    assert "student + kd, seed 0: another process is training it; waiting" in outcome.text
    assert trainings(outcome.text) == 0


def test_a_lock_is_one_holders_and_ends_with_its_block(tmp_path):
    path = tmp_path / "deep" / "lock"
    with exclusive(path) as mine, exclusive(path, wait=False) as second:
        assert mine
        assert not second
    with exclusive(path, wait=False) as again:
        assert again


def test_a_failure_stops_nothing_else_and_is_told_at_the_end(cli):
    outcome = cli(*STUDY, "method=sp", "method.terms.sp.weight=1e38", "method.terms.ce.weight=1e38")
    assert outcome.code == 1
    assert "1 of 3 trainings did not finish" in outcome.text
    assert "The loss is not finite" in outcome.text
    assert "student + kd" in outcome.text.partition("choice of weights")[2]
    assert "student + sp, seed 0" in json.loads((outcome.folder / "study.json").read_text())["missing"]
    mended = cli(*STUDY, "method=sp")
    assert mended.code == 0, mended.text
    assert trainings(mended.text) == 1


def test_methods_that_do_not_fit_are_all_named_before_anything_is_trained(cli):
    nowhere = ["method.terms.kd.inputs.student=student.nowhere", "study.methods=[kd,tinybert]"]
    outcome = cli(*STUDY, *nowhere)
    assert outcome.code == 1
    assert "student + kd: student (ResNet) has no submodule 'nowhere' to tap" in outcome.text
    assert "student + tinybert: " in outcome.text
    assert trainings(outcome.text) == 0


def test_the_chosen_method_is_as_it_was_set_and_the_others_as_published(cli):
    outcome = cli(*STUDY, "study.methods=[dkd]", "method.terms.kd.loss.temperature=2", "method.terms.ce.weight=0.5")
    assert outcome.code == 0, outcome.text
    methods = {n.partition("-")[0]: OmegaConf.load(f / "config.yaml").method for n, f in cells().items()}
    assert methods["kd"].terms.kd.loss.temperature == 2
    assert methods["kd"].terms.ce.weight == 0.5
    assert methods["dkd"].terms.dkd.loss.beta == 8.0
    assert methods["dkd"].terms.ce.weight == 1.0
    assert methods["ce"].terms.ce.weight == 1.0


def test_methods_of_ones_own_folder(cli, tmp_path):
    own = tmp_path / "mine" / "method"
    own.mkdir(parents=True)
    (own / "hot.yaml").write_text(
        "defaults:\n  - /term@terms.kd: kd\n  - _self_\nname: hot\nterms:\n  kd: {loss: {temperature: 9}}\n"
        "info: {kind: response, paper: mine, year: 2024, needs: []}\n"
    )
    outcome = cli("--config-dir", "mine", *STUDY, "study.methods=[hot]", "study.controls=[]")
    assert outcome.code == 0, outcome.text
    assert "student + hot" in outcome.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study.methods=[dkdd]"], "Did you mean dkd"),
        (["study.workers=0"], "at least one process"),
        (["study.workers=2", "trainer.strategy=ddp"], "each process uses a GPU of its own"),
        (["baseline=null"], "needs the student alone"),
        (["protocol=test"], "choose validation, or paper"),
        (["protocol=paper", "trainer.ema=0.9"], "which trainer.ema does not allow"),
    ],
)
def test_bad_input(cli, arguments, message):
    outcome = cli(*STUDY, *arguments)
    assert outcome.code == 1
    assert message in outcome.text
    assert trainings(outcome.text) == 0


def test_the_papers_protocol_only_adds_a_number(cli):
    more = [
        "data.augment=[{_target_: kd_lightning.data.images.augment.RandomAffine, degrees: 10}]",
        "trainer.max_epochs=3",
    ]
    honest = cli(*STUDY, *more, "study.folder=honest")
    paper = cli(*STUDY, *more, "study.folder=paper", "protocol=paper")
    assert paper.code == 0, paper.text
    assert "paper protocol" not in honest.text
    assert "Best on test (paper protocol): the epoch was chosen on the test split itself" in " ".join(
        paper.text.split()
    )
    assert trainings(paper.text) == 2  # the teacher is the same
    for (_, one), (_, two) in zip(cells("honest").items(), cells("paper").items(), strict=True):
        a, b = load_file(one / "student.safetensors"), load_file(two / "student.safetensors")
        assert all(torch.equal(a[name], b[name]) for name in a)
        test = json.loads((two / "arm.json").read_text())["test"]
        assert test["best_on_test"]["top1"] >= max(test["last"]["top1"], test["best"]["top1"])
        assert "best_on_test" not in json.loads((one / "arm.json").read_text())["test"]


def test_energy_is_what_the_counters_say(tmp_path):
    assert EnergyMeter(powercap=tmp_path).joules is None
    with EnergyMeter(powercap=tmp_path) as nothing:
        pass
    assert nothing.joules is None

    def counter(name, value):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")

    counter("intel-rapl:0", 1_000_000)
    counter("intel-rapl:1", 9_000_000)
    counter("intel-rapl:0:0", 5)  # a part of the first package
    with EnergyMeter(powercap=tmp_path, every=3600) as meter:
        counter("intel-rapl:0", 4_500_000)
        counter("intel-rapl:1", 1_000_000)  # ran over
        counter("intel-rapl:0:0", 9_999_999)
    assert meter.joules == pytest.approx(3.5 + 2.0)
    assert meter.sources == ["cpu"]


def test_runs_are_told_apart_ranked_and_tested_against_their_own_control(cli):
    train = [*TINY, "job=train", "trainer.max_epochs=1", "teacher.fit=null"]
    for i, more in enumerate((["seed=0"], ["seed=1"], ["method.terms.kd.loss.temperature=1"])):
        assert cli(*train, *more, f"hydra.run.dir=outputs/a/{i}").code == 0
    for model in ("resnet8", "resnet14"):
        own = ["study.controls=[]", f"model@student={model}", "method=sp", f"study.folder=outputs/{model}"]
        assert cli(*STUDY, *own).code == 0
    outcome = cli("job=compare", "runs=outputs/*", *BRIEF)
    assert outcome.code == 0, outcome.text
    numbers = json.loads((outcome.folder / "metrics.json").read_text())
    arms = numbers["arms"]
    assert set(arms) == {
        "teacher resnet8",
        "resnet8 + kd (temperature=4.0)",
        "resnet8 + kd (temperature=1)",
        *("resnet8 alone", "resnet8 + sp", "resnet14 alone", "resnet14 + sp"),
    }
    assert arms["resnet8 + kd (temperature=4.0)"]["seeds"] == [0, 1]
    text = " ".join(outcome.text.split())
    assert "resnet14 + sp and resnet14 alone" in text or "resnet14 + sp has" in text
    assert "resnet14 + sp and resnet8 alone" not in text
    ranked = text.partition("Ranked on validation: 1. ")[2]
    scores = [float(part.rpartition(", ")[2]) for part in ranked.partition(" Done in")[0].split("; ")]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 6

    both = cli("job=compare", "runs=[outputs/a/0,outputs/a/1]", *BRIEF)
    assert both.code == 0, both.text
    assert list(json.loads((both.folder / "metrics.json").read_text())["arms"]) == ["resnet8 + kd"]
    assert "runs='outputs/digits_resnet/*'" in cli("job=compare").text


def test_runs_on_pictures_of_other_sizes_are_refused_before_anything_is_measured(cli):
    for size in (8, 16):
        at = [f"data.image_size={size}", f"hydra.run.dir=outputs/sizes/{size}"]
        assert cli(*TINY, "job=train", "method=ce", "trainer.max_epochs=1", *at).code == 0
    outcome = cli("job=compare", "runs=outputs/sizes/*", *BRIEF)
    assert outcome.code == 1
    assert "takes pictures of data.image_size=8" in outcome.text
    assert "of 16, 3: their costs and answers" in outcome.text
