"""The teacher cache through the command line: a loss cannot tell stored signals from live ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cache.commands import FP32, TRAIN, close, files

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
