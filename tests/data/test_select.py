"""Choosing training samples by teacher and pilot."""

import pytest
import torch

from kd_lightning.data.images.module import KDDataModule
from kd_lightning.data.images.sources.synthetic import Synthetic
from kd_lightning.data.select import Rules, make_rules, select_samples


def logits(*probabilities):
    return torch.tensor(probabilities).log()


TEACHER = logits([0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.7, 0.3], [0.05, 0.95])
TARGETS = torch.tensor([0, 0, 1, 0, 1, -100])
NONE = {"min_size": 0, "min_per_class": 0}


def chosen(targets=TARGETS, pilot=None, **rules):
    return select_samples(Rules(**{**NONE, **rules}), TEACHER, targets, pilot)


def test_the_teacher_must_be_right():
    found = chosen()
    assert found.index.tolist() == [0, 1, 2, 5]
    assert found.labels.tolist() == [0, 0, 1, 1]  # the last is the teacher's
    assert found.weights is None
    assert found.record["left_out_by"] == {"teacher_wrong": 2, "pilot_wrong": 0, "low_confidence": 0, "low_margin": 0}
    assert found.record["of_class"] == [3, 3]
    assert found.record["kept_of_class"] == [2, 2]
    assert (found.record["unlabelled"], found.record["unlabelled_kept"]) == (1, 1)
    assert found.record["mean_confidence"] == {
        "kept": pytest.approx((0.9 + 0.6 + 0.8 + 0.95) / 4, abs=1e-5),
        "left_out": pytest.approx((0.55 + 0.7) / 2, abs=1e-5),
    }
    assert chosen(teacher_right=False).index.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_pilot_must_be_right_too():
    pilot = logits([0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1])
    found = chosen(pilot=pilot)
    assert found.index.tolist() == [0, 2]
    assert found.record["left_out_by"]["pilot_wrong"] == 2
    assert chosen(pilot=pilot, teacher_right=False).index.tolist() == [0, 2, 3, 4]


def test_confidence_and_margin():
    assert chosen(min_confidence=0.65).index.tolist() == [0, 2, 5]
    assert chosen(min_margin=0.61).index.tolist() == [0, 5]
    assert chosen(teacher_right=False, min_confidence=0.65).index.tolist() == [0, 2, 4, 5]


def test_unlabelled_samples_may_stay_so():
    assert chosen(label_unlabelled=False).labels.tolist() == [0, 0, 1, -100]


def test_floors_bring_the_surest_back():
    strict = {"min_confidence": 0.99}
    assert chosen(**strict, min_per_class=1).index.tolist() == [0, 5]
    assert chosen(**strict, min_size=0.5).index.tolist() == [0, 2, 5]
    assert chosen(**strict, min_size=4).index.tolist() == [0, 1, 2, 5]
    assert chosen(**strict, min_per_class=100).index.tolist() == [0, 1, 2, 3, 4, 5]
    record = chosen(min_confidence=0.85, min_size=3).record
    assert (record["kept"], record["kept_by_rules"], record["kept_by_floor"]) == (3, 2, 1)
    assert record["left_out_by"]["low_confidence"] == 2


def test_weights_instead_of_leaving_out():
    found = chosen(rest=0.25)
    assert found.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.weights.tolist() == [1, 1, 1, 0.25, 0.25, 1]
    assert found.record["shown"] == 6
    assert found.record["kept"] == 4
    sure = chosen(by_confidence=True)
    torch.testing.assert_close(sure.weights, torch.tensor([0.9, 0.6, 0.8, 0.95]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"teacher_rigth": True}, "no rule 'teacher_rigth'.*Did you mean teacher_right"),
        ({"min_confidence": 70}, r"min_confidence must lie in 0\.\.1, got 70"),
        ({"min_size": -1}, "min_size must not be negative"),
    ],
)
def test_rules_that_make_no_sense(rules, message):
    with pytest.raises(ValueError, match=message):
        make_rules(rules)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="needs logits"):
        select_samples(Rules(), TEACHER, TARGETS[:3])


def test_a_data_module_trains_on_what_was_chosen():
    data = KDDataModule(Synthetic(100, 4, 1, 8), batch_size=5, val_fraction=0.1, test_fraction=0.1)
    before, targets, test = data.split, data.targets("train"), data.targets("test")
    index = torch.arange(0, 80, 2)
    data.choose(index)
    assert data.num_samples == 40
    assert torch.equal(data.targets("train"), targets[index])
    assert torch.equal(data.targets("test"), test)
    assert data.split.fingerprint != before.fingerprint
    seen = torch.cat([batch["index"] for batch in data.loader("train", train=True)])
    assert sorted(seen.tolist()) == list(range(40))


def test_weights_and_labels_of_the_chosen_are_in_the_fingerprint(tmp_path):
    def module():
        return KDDataModule(Synthetic(100, 4, 1, 8), batch_size=10, val_fraction=0.1, test_fraction=0.1)

    index = torch.arange(70)
    labels = torch.full((70,), 3)
    options = {"none": {}, "weights": {"weights": torch.rand(70) + 0.1}, "labels": {"labels": labels}}
    found = {}
    for name, option in options.items():
        data = module()
        data.choose(index, **option)
        found[name] = data
    assert len({data.split.fingerprint for data in found.values()}) == 3
    assert found["labels"].targets("train").tolist() == [3] * 70
    assert next(iter(found["labels"].loader("train", train=True)))["target"].tolist() == [3] * 10
    assert found["labels"].targets("test").unique().numel() > 1
    path = found["labels"].save_split(tmp_path)  # the split as it was made
    again = KDDataModule(Synthetic(100, 4, 1, 8), split_file=str(path))
    assert torch.equal(again.split.train, module().split.train)
    with pytest.raises(ValueError, match="No training sample is left"):
        module().choose(index[:0])
