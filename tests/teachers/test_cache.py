"""The teacher cache through the command line: a loss cannot tell stored signals from live ones."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning.core.roles import Role
from tests.conftest import QUICK

# 112 training samples that are augmented; the net is small, without dropout.
TRAIN = [
    *["data=synthetic", "data.source.samples=160", "data.image_size=8", "data.num_classes=3", *QUICK],
    *["job=train", "teacher.fit=null", "teacher.views=2", "trainer.max_epochs=4"],
]
FP32 = "teacher.cache_dtype=fp32"


def losses(folder):
    """Mean training losses of every epoch, by name."""
    with (folder / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [{k: float(v) for k, v in row.items() if k.startswith("train/")} for row in rows]


def files():
    return sorted(Path("outputs/cache").rglob("*.safetensors"))


@pytest.fixture
def train(cli, monkeypatch):
    """Train; gives the outcome, its losses, and how many samples the teacher saw with a training batch's view."""
    seen, runs = [0], []
    original = Role.forward

    def forward(self, batch):
        if not self.trainable:
            seen[0] += len(batch["index"])
        return original(self, batch)

    monkeypatch.setattr(Role, "forward", forward)

    def run(*arguments):
        seen[0] = 0
        runs.append(f"hydra.run.dir=outputs/run/{len(runs)}")  # two may start within one second
        outcome = cli(*TRAIN, runs[-1], *arguments)
        assert outcome.code == 0, outcome.text
        outcome.losses = losses(outcome.folder) if "job=cache" not in arguments else []
        outcome.seen = seen[0]
        return outcome

    return run


def close(a, b, tolerance):
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


# -- the same numbers


@pytest.mark.parametrize(
    "options",
    [
        ["method=kd"],
        ["method=srrl"],  # also takes the teacher's classifier itself
        ["method=reviewkd", "trainer.channels_last=true"],
    ],
    ids=lambda options: options[0],
)
def test_stored_in_full_the_losses_are_those_of_a_live_teacher(train, options):
    live = train("teacher.cache=off", *options)
    cached = train("teacher.cache=write", FP32, *options)
    close(cached.losses, live.losses, 1e-6)
    again = train("teacher.cache=read", FP32, *options)
    assert again.losses == cached.losses
    # Both trainings look at one batch for shapes; then one saw four epochs of 112, the other wrote two views.
    assert live.seen - cached.seen > 112
    assert again.seen <= 32


def test_stored_in_half_they_are_those_to_half_precision(train):
    live = train("teacher.cache=off", "trainer.max_epochs=1")
    half = train("teacher.cache=write", "trainer.max_epochs=1")
    # Logits change by at most 2^-11 of themselves (about 1 here), and so does the loss, which averages over them.
    close(half.losses, live.losses, 4 * 2**-11)
    assert half.losses != live.losses


def test_live_and_stored_teachers_give_the_same_top_k(train):
    options = ["method=sparse_kl", "~method.terms.sparse_kl.inputs.mask", "teacher.topk=2"]
    live = train(*options, "teacher.cache=off")
    cached = train(*options, "teacher.cache=write", FP32)
    close(cached.losses, live.losses, 1e-6)
    stored = {path.parts[-3]: load_file(path)["rows"] for path in files()}
    assert set(stored) == {"topk_indices@2", "topk_log_probs@2"}
    assert stored["topk_indices@2"].shape == (112, 2)
    assert stored["topk_log_probs@2"].exp().sum(1).max() <= 1


def test_without_augmentation_one_view_is_enough(train):
    plain = ["data.augment=[]", "teacher.views=null"]
    live = train(*plain, "teacher.cache=off")
    cached = train(*plain, FP32)
    assert "1 view of 112 samples" in cached.text
    assert len(files()) == 1
    close(cached.losses, live.losses, 1e-6)


# -- one store for all


OTHERS = (["seed=3"], ["model@student=resnet14"], ["method=dkd"], ["data.batch_size=8"], ["trainer.max_epochs=5"])


def test_another_student_method_seed_and_order_reuse_the_store(train):
    first = train("method=kd")
    assert "teacher cache: writing logits (3), 2 views of 112 samples" in first.text
    before = {path: path.stat().st_mtime_ns for path in files()}
    for other in OTHERS:
        outcome = train(*other)
        assert "teacher cache: reading logits (3), 2 views of 112 samples, stored earlier" in outcome.text, other
    assert {path: path.stat().st_mtime_ns for path in files()} == before
    # A method that asks for more adds only what is new.
    more = train("method=crd_kd")
    assert "writing" in more.text
    assert {path.parts[-3] for path in files()} == {"logits", "fc@in"}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len({path.parts[-4] for path in files()}) == 1


def test_seeds_of_a_pipeline_share_what_the_first_one_stores(cli):
    outcome = cli(
        *TRAIN, "job=pipeline", "seeds=[0,1]", "teacher.views=null", "export.formats=[]", "trainer.max_epochs=1"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("teacher cache: writing logits") == 1
    assert outcome.text.count("teacher cache: reading logits") == 1


def test_trials_of_a_sweep_share_what_the_first_one_stores(cli):
    outcome = cli("-m", *TRAIN, "optimizer.lr=0.1,0.01", "teacher.views=null", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("teacher cache: writing logits") == 1
    assert outcome.text.count("teacher cache: reading logits") == 1


def test_more_views_are_added_to_those_that_are_there(train):
    train()
    assert len(files()) == 2
    more = train("teacher.views=3")
    assert "448 rows will be read, 112 are written" in more.text
    assert len(files()) == 3


def test_the_job_fills_a_store_that_a_training_reads(train):
    filled = train("job=cache", "teacher.cache=off")
    assert "teacher cache: writing logits" in filled.text
    assert "training ..." not in filled.text
    assert train("teacher.cache=read").losses
    assert "reading" in train("job=cache").text


# -- a change is a miss

CHANGES = {
    "weights": ["teacher.seed=1"],
    "net": ["model@teacher=resnet14"],
    "augmentation": ["data.augment.0.padding=1"],
    "augmentation seed": ["data.seed=1"],
    "statistics": ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"],
    "split": ["data.split_seed=1"],
    "data": ["data.source.seed=1"],
    "precision": ["teacher.precision=bf16"],
    "trainer's precision": ["trainer.precision=bf16-mixed"],
    "type": ["teacher.cache_dtype=bf16"],
    "folding": ["teacher.fold=false"],
    "signal": ["method=crd"],
    "views": ["teacher.views=3"],
}


def test_any_change_of_what_the_teacher_gives_is_a_miss(cli):
    assert cli(*TRAIN, "job=cache").code == 0
    assert cli(*TRAIN, "job=cache", "teacher.cache_dtype=fp16").code == 0
    assert len(files()) == 2
    for what, change in CHANGES.items():
        outcome = cli(*TRAIN, "job=train", "teacher.cache=read", *change)
        assert outcome.code == 1, what
        assert "files are missing or damaged" in outcome.text, what
        assert "job=cache" in outcome.text
    assert len(files()) == 2


def test_code_that_changed_since_is_noticed_though_the_key_is_the_same(cli, monkeypatch):
    assert cli(*TRAIN, "job=cache").code == 0
    from kd_lightning.core.calls import TensorCall

    original = TensorCall.__call__
    monkeypatch.setattr(TensorCall, "__call__", lambda *a: {"logits": original(*a)["logits"] * 3})
    refused = cli(*TRAIN, "teacher.cache=read")
    assert refused.code == 1
    assert "not what the teacher gives now" in refused.text
    renewed = cli(*TRAIN, "job=cache")
    assert "written anew" in renewed.text
    assert cli(*TRAIN, "teacher.cache=read").code == 0


def test_a_damaged_file_is_named_when_reading_and_mended_otherwise(cli, train):
    right = train("teacher.cache=write")
    path = files()[1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))
    refused = cli(*TRAIN, "teacher.cache=read")
    assert refused.code == 1
    assert f"{path} is damaged: its checksum is wrong" in refused.text
    mended = train()
    assert "it is written anew" in mended.text
    assert "112 are written" in mended.text
    assert mended.losses == right.losses


# -- what is chosen, and why


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["teacher.views=null"], "448 rows would be read and 448 written first"),
        (["trainer.max_epochs=2"], "224 rows would be read and 224 written first"),
        (["trainer.limit_train_batches=1"], "64 rows would be read and 224 written first"),
        (["trainer.max_epochs=-1", "trainer.max_steps=7"], "112 rows would be read and 112 written first"),
        (["method=mlkd"], "mlkd changes the batch (TwoViews)"),
        (["teacher.topk=2"], "keeps 2 of 3"),
        (["teacher.max_gb=1e-7"], "would take 1.3 kB, more than teacher.max_gb=1e-07"),
    ],
)
def test_live_where_storing_does_not_pay_or_is_not_possible(train, options, reason):
    outcome = train(*options)
    assert "teacher cache: not used, the teacher runs in every step" in outcome.text
    assert reason in outcome.text
    assert not files()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["teacher.cache=write", "method=sskd"], "changes the batch (Rotations)"),
        (["teacher.cache=read", "teacher.topk=2"], "Set teacher.topk=null"),
        (["teacher.cache=write", "teacher.max_gb=1e-7"], "Raise teacher.max_gb"),
        (["teacher.cache=write", "trainer.precision=bf16-true"], "trainer.precision=bf16-true converts the teacher"),
        (["teacher.cache=raed"], "choose auto, off, read, write"),
        (["teacher.cache_dtype=int8"], "choose fp16, bf16, fp32"),
        (["teacher.views=0"], "from 1 on, or all"),
        (["teacher.topk=0"], "teacher.topk must be at least 1"),
        (["teacher.placement=best"], "teacher.placement=best: choose auto"),
        (["job=cache", "method=ce"], "asks for no signals of a teacher"),
    ],
)
def test_what_is_demanded_and_impossible_is_an_error(cli, options, reason):
    outcome = cli(*TRAIN, *options)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert reason in outcome.text
    assert not files()


def test_placement_says_what_the_teacher_costs(cli):
    live = cli(*TRAIN, "teacher.placement=auto", "teacher.cache=off")
    assert live.code == 0, live.text
    assert "teacher placement: live" in live.text
    cached = cli(*TRAIN, "teacher.placement=auto")
    assert "teacher placement: cached: it takes" in cached.text


# -- processes


def test_two_processes_read_their_rows(cli):
    """Forked where the trainer starts, so that they need not import everything again."""
    options = [*TRAIN, "model@student=mlp", "trainer.max_epochs=2", FP32]  # no batch norm: its statistics would differ
    ddp = ["trainer.devices=2", "trainer.strategy=ddp_fork", "data.num_workers=0"]
    two = cli(*options, "teacher.cache=write", *ddp, "hydra.run.dir=outputs/two/a")
    assert two.code == 0, two.text
    assert "writing logits" in two.text
    assert len(files()) == 2
    one = cli(*options, "teacher.cache=read", "hydra.run.dir=outputs/one/a")
    assert one.code == 0, one.text
    trained = [load_file(Path(f"outputs/{name}/a/student.safetensors")) for name in ("two", "one")]
    for name, value in trained[1].items():
        torch.testing.assert_close(trained[0][name], value, rtol=1e-4, atol=1e-6)
