"""What holds for every task: of this package, and of a stranger's."""

import json
import math

import pytest
import torch

from kd_lightning.comparison.records import Arm
from kd_lightning.comparison.results import compare
from kd_lightning.data.targets import find_target
from kd_lightning.report.tables import main_table
from kd_lightning.tasks.registry import find_task, known_tasks
from tests.report import build

N, C = 120, 4
STRANGER = "tests.tasks.test_stranger.EvenTopics"
EVERY = [*known_tasks(), STRANGER]


def truth(task):
    """Targets, and outputs that are as right as can be."""
    kind = find_target(task.target)
    if kind.dtype.is_floating_point:
        target = torch.randn(N, generator=torch.Generator().manual_seed(0))
        return target, target[:, None].clone()
    if kind.each == "nothing":
        return torch.zeros(N), torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
    target = torch.arange(N) % C
    return target, 30.0 * torch.nn.functional.one_hot(target, C).float()


def blurred(outputs, seed, by=1.0):
    noise = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(seed))
    return outputs / 10 + by * noise


def arm(name, kind, outputs, target):
    one = build.artifact(name, 0, ".", outputs, target, torch.arange(N), validation=(blurred(outputs, 9), target))
    return Arm(name, kind, [one])


@pytest.mark.parametrize("name", EVERY)
def test_the_best_answers_have_the_best_score(name):
    task = find_task(name)
    target, right = truth(task)
    wrong = blurred(right, 2)
    of = {key: task.measures(found, target) | task.agreement(found, right) for key, found in
          {"right": right, "wrong": wrong}.items()}  # fmt: skip
    best = 0.0 if not task.score.higher else 1.0
    assert of["right"][task.score.key] == pytest.approx(best, abs=1e-6)
    assert task.score.better(of["right"][task.score.key] - of["wrong"][task.score.key])
    assert task.quality(right, target, right) == pytest.approx(1.0)
    assert task.quality(right, target, right) > task.quality(wrong, target, right)
    rows = task.right(right, target)
    assert rows is None or bool(rows.all())
    assert rows is None or not bool(task.right(wrong, target).all())


@pytest.mark.parametrize("name", EVERY)
def test_nobody_is_more_like_a_net_than_itself(name):
    task = find_task(name)
    outputs = blurred(truth(task)[1], 3)
    other = blurred(outputs, 4)
    assert task.alike(outputs, outputs) == pytest.approx(1.0)
    assert task.alike(outputs, other) < 1.0
    same, different = task.agreement(outputs, outputs), task.agreement(outputs, other)
    assert task.alike(outputs, other) in [pytest.approx(value) for value in different.values()]
    for key, value in same.items():  # a likeness is 1 for the same, a distance 0
        assert value == pytest.approx(1.0, abs=1e-6) or value == pytest.approx(0.0, abs=1e-6), key
        assert different[key] != pytest.approx(value, abs=1e-6), key


@pytest.mark.parametrize("name", EVERY)
def test_a_net_that_looks_at_nothing_has_the_trivial_score(name):
    task = find_task(name)
    target, right = truth(task)
    target = torch.where(target == 3, 0, target) if find_target(task.target).column and task.classes else target
    blind = torch.zeros_like(right)
    found = task.trivial(target, right.shape[1])
    if found is None:
        assert find_target(task.target).each == "nothing"
        return
    assert task.measures(blind, target)[task.score.key] == pytest.approx(found, abs=1e-6)
    assert math.isfinite(found)


@pytest.mark.parametrize("name", EVERY)
def test_no_column_is_empty(name):
    task = find_task(name)
    target, right = truth(task)
    names = [str(i) for i in range(C)] if task.classes else []
    arms = [arm("teacher", "teacher", right / 8, target), arm("student alone", "alone", blurred(right, 5), target),
            arm("student + kd", "distilled", blurred(right, 6, 0.5), target)]  # fmt: skip
    comparison = compare(arms, names, task=name)
    shown = {column.name: column for column in main_table(comparison)}
    few = {"Top-5"} if C <= 5 else set()
    assert {one.name for one in task.columns} - few == {one.name for one in task.columns} & set(shown)
    assert task.score.key in {one.key for one in task.columns}
    assert shown[next(one.name for one in task.columns if one.key == task.score.key)].short


@pytest.mark.parametrize("name", EVERY)
def test_what_is_needed_is_there(name):
    task = find_task(name)
    assert str(task) == name == task.name
    assert find_target(task.target).name == task.target
    for word in (task.quality_name, task.alike_name, task.verb, task.ask, task.view, task.head, task.unit):
        assert word
    assert set(task.card) <= {"images", "features", "text"}
    assert all(tag == tag.lower() and said[0].isupper() for tag, said in task.card.values())


class Net:
    """A deployed net of texts, of bytes, that says the same of every one."""

    max_length, class_names, top, new_tokens = 16, ["a", "b", "c", "d"], 2, 3

    def __init__(self, task):
        from kd_lightning.data.text.tokenizers import Bytes

        self.tokenizer = Bytes().build(lambda: iter(()), None)
        self.task = task

    def read(self, texts, words=False):
        from kd_lightning.deploy.texts import Encoded

        found = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        tensors = {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}
        return Encoded(tensors, [False] * len(texts), [[0, 2] for _ in texts] if words else [])

    def run(self, tensors):
        rows, length = tensors["input_ids"].shape
        wide = len(self.tokenizer) if self.task.width == "vocab_size" else C
        shape = (rows, length, wide) if find_target(self.task.target).each == "token" else (rows, wide)
        return torch.arange(wide).float().expand(shape)

    def prompt(self, text):
        return [65]

    def padded(self, rows):
        ids = torch.tensor([[*row, *[0] * (9 - len(row))] for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize("name", EVERY)
def test_answers_are_json(name):
    task = find_task(name)
    texts = ["<mask> b", "c <mask>"]
    answers = task.answer(texts, Net(task))
    assert len(answers) == len(texts)
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers
    assert all(answer and "error" not in answer for answer in answers)


@pytest.mark.parametrize(
    ("name", "words"),
    [("clasification", "Did you mean classification"), ("nowhere.Task", "cannot be imported"),
     ("math.pi", "is no kd_lightning.tasks.base.Task")],
)  # fmt: skip
def test_what_is_no_task_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        find_task(name)
