"""What `compare` finds in runs whose answers are known."""

import json

import pytest
import torch

from kd_lightning.comparison.results import Arm, Comparison, Cost, compare
from kd_lightning.measures.similarity import Similarity
from kd_lightning.report.choices import choice_rows
from kd_lightning.report.html import html
from kd_lightning.report.markdown import markdown
from kd_lightning.report.plots.alike import alike
from kd_lightning.report.plots.balance import finding
from kd_lightning.report.tables import main_table
from tests.report import build

NAMES = [f"c{i}" for i in range(10)]


def test_contrast_by_hand():
    found = compare(build.arms({"student alone": [80, 82, 84], "student + kd": [86, 90, 94]}), NAMES)
    contrast = found.contrasts[0]
    assert contrast.differences == pytest.approx([0.06, 0.08, 0.10])
    assert contrast.test.cohens_d == pytest.approx(4.0, rel=1e-4)
    assert [(one.won, one.lost) for one in contrast.samples] == [(6, 0), (8, 0), (10, 0)]
    assert contrast.won.tolist() == list(range(80, 86))
    assert contrast.outcome == "gain"
    assert found.verdicts == [contrast.verdict]


def test_runs_are_paired_by_seed_not_by_position():
    arms = build.arms({"student alone": [50, 60], "student + kd": [51, 63]})
    arms[1].runs.reverse()
    assert compare(arms, NAMES).contrasts[0].differences == pytest.approx([0.01, 0.03])


def test_only_common_seeds_are_compared():
    arms = build.arms({"student alone": [50, 60, 70], "student + kd": [51, 63, 99]})
    arms[1].runs[2].record["seed"] = 7
    assert compare(arms, NAMES).contrasts[0].seeds == [0, 1]
    for run in arms[1].runs:
        run.record["seed"] += 10
    alone = compare(arms, NAMES).contrasts[0]
    assert (alone.seeds, alone.outcome, alone.test) == ([], "unknown", None)
    assert "no seed in common" in alone.verdict


def test_several_arms_are_corrected_together():
    rights = {"student alone": [80, 82, 84], "student + kd": [86, 90, 94], "student + at": [81, 83, 86]}
    one, two = compare(build.arms(rights), NAMES).contrasts
    assert one.p == pytest.approx(2 * one.test.p)
    assert two.p == pytest.approx(max(two.test.p, one.p))


def test_an_arm_against_two_references_is_corrected_over_all_tests():
    rights = {"student alone": [80, 82, 84], "student + kd": [86, 90, 94], "student + dkd": [87, 92, 94]}
    pairs = [("student + kd", "student alone"), ("student + dkd", "student alone"), ("student + dkd", "student + kd")]
    found = compare(build.arms(rights), NAMES, pairs=pairs)
    assert [(one.name, one.reference) for one in found.contrasts] == pairs[:2]
    assert [(one.name, one.reference) for one in found.further] == pairs[2:]
    assert sorted(one.p for one in found.tests)[0] == pytest.approx(3 * min(one.test.p for one in found.tests))
    sentence = "No significant difference: student + dkd is +1.0 ± 1.0 points from student + kd"
    assert found.verdicts[2].startswith(sentence)
    again = Comparison.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.verdicts == found.verdicts


def test_titles_speak_of_the_judged_method_not_of_a_control():
    rights = {"student alone": [80, 82], "student + ls": [84, 86], "student + kd": [86, 90], "student + dkd": [87, 92]}
    arms = build.arms(rights)
    arms[1].kind = "alone"
    names = [arm.name for arm in arms]
    pairs = [(name, names[0]) for name in names[1:]]
    assert [one.name for one in compare(arms, NAMES, pairs=pairs).headlines] == [names[2], names[3], names[1]]
    found = compare(arms, NAMES, pairs=[*pairs, (names[3], names[2])])
    assert [one.name for one in found.headlines] == [names[3], names[2], names[1]]
    assert [arm.name for arm in found.leading(2)] == [names[0], names[3]]
    assert finding(found).startswith("student + dkd helps class")


def test_agreement_is_with_the_teacher_of_the_same_seed():
    found = compare(build.arms({"teacher": [100, 50], "student alone": [100, 50]}), NAMES)
    assert [row["agreement"] for row in found.arm("student alone").metrics] == [1.0, 1.0]
    single = compare(build.arms({"teacher": [100], "student alone": [100, 50]}), NAMES)
    assert [row["agreement"] for row in single.arm("student alone").metrics] == [1.0, 0.5]
    assert single.arm("teacher").summary("agreement") is None


def test_rows_meet_by_index_and_padding_counts_once():
    arms = build.arms({"student alone": [60], "student + kd": [70]})
    straight = compare(arms, NAMES).contrasts[0].samples
    run, order = arms[1].runs[0], torch.cat([torch.randperm(100), torch.tensor([3, 3])])
    arms[1].runs[0] = build.artifact("shuffled", 0, "", run.logits[order], run.target[order], run.index[order])
    assert compare(arms, NAMES).contrasts[0].samples == straight
    assert len(arms[1].runs[0].target) == 100


def test_ignored_targets_are_left_out():
    run = build.artifact("r", 0, "", torch.eye(3), torch.tensor([0, -100, 2]), torch.arange(3))
    assert run.index.tolist() == [0, 2]


def test_a_mean_that_hides_a_loss_is_told():
    target = torch.arange(100) % 10
    before = target != 0  # class 0 wrong, the others right but for class 1 under kd
    after = target != 1
    after[1] = True
    arms = [
        Arm("student alone", "alone", [build.run(before, target, 10)]),
        Arm("student + kd", "distilled", [build.run(after, target, 10)]),
    ]
    (warning,) = compare(arms, NAMES).warnings
    assert "class c1 has −90.0 points against student alone on its 10 samples (exact McNemar p = 0.004" in warning
    arms[1].runs[0] = build.run(after & (target > 2), target, 10)
    assert compare(arms, NAMES).warnings == []  # the mean falls as well: nothing is hidden


def test_a_loss_that_may_be_chance_is_called_so():
    right = build.first(90, 100)
    other = right.clone()
    other[0], other[95] = False, True
    arms = [Arm("student alone", "alone", [build.run(right, torch.arange(100) % 10, 10)])]
    arms.append(Arm("kd", "distilled", [build.run(other, torch.arange(100) % 10, 10)]))
    (warning,) = compare(arms, NAMES).warnings
    assert "may be chance" in warning


def test_a_teacher_that_has_nothing_to_teach_is_told():
    worse = compare(build.arms({"teacher": [80], "student alone": [80], "student + kd": [90]}), NAMES)
    assert worse.warnings[0].startswith("The teacher (80.0 %) is not better than student alone (80.0 %)")
    better = compare(build.arms({"teacher": [81], "student alone": [80], "student + kd": [90]}), NAMES)
    assert not any("not better" in text for text in better.warnings)


def test_an_arm_that_gives_one_answer_for_all_is_called_collapsed():
    arms = build.arms({"teacher": [90], "student alone": [80], "student + kd": [85]})
    arms[2].runs[0].answers.logits[:] = torch.tensor([2.0] + 9 * [0.0])
    arms[2].runs[0].similarity = Similarity(["fc"], ["fc"], [[0.97]])
    found = compare(arms, NAMES)
    told = "student + kd has collapsed: it gives one and the same answer for the whole test split."
    assert found.verdicts[0].endswith(told)
    assert [plot.title for plot in alike(found)] == ["student + kd has collapsed: one answer for the whole test split"]
    assert told in compare(arms, NAMES, reference=None).warnings
    assert "collapsed" not in " ".join(compare(arms[:2], NAMES).verdicts)
    # Of 100 test samples 10 are of each class: whoever always says the same is right in 10 %.
    over = next(one for one in main_table(found) if one.name == "Top-1 against trivial (10.0 %)")
    assert over.cells == ["+80.0", "+70.0", "0.0"]


def test_the_choice_of_weights_is_told_beside_its_cost():
    arms = build.arms({"student alone": [80, 82], "student + kd": [86, 90]}, train_seconds=3.0, epochs=6)
    for run, last in zip(arms[1].runs, (0.84, 0.88), strict=True):
        run.record |= {"test": {"last": {"top1": last}, "best": {"top1": 0.9}}, "energy_joules": 2000.0}
    found = compare(arms, NAMES)
    head = ["Arm", "last epoch (%)", "best on validation (%)", "Epochs", "Time", "Energy"]
    row = ["student + kd", "86.00 ± 2.83", "90.00 ± 0.00", "6", "3.0 s", "2,000 J"]
    assert choice_rows(found) == (head, [row])
    assert "| student + kd | 86.00 ± 2.83 |" in markdown(found)
    assert "paper protocol" not in html(found, {})
    arms[1].runs[0].choices["best_on_test"] = {"top1": 0.95}
    assert choice_rows(compare(arms, NAMES))[1][0][3] == "–"  # the other seed has none
    arms[1].runs[1].choices["best_on_test"] = {"top1": 0.95}
    paper = compare(arms, NAMES)
    assert choice_rows(paper)[0][3] == "best on test (paper protocol) (%)"
    assert choice_rows(paper)[1][0][3] == "95.00 ± 0.00"
    assert "the epoch was chosen on the test split itself" in html(paper, {})


def test_without_a_reference_nothing_is_claimed():
    found = compare(build.arms({"teacher": [90], "student + kd": [80]}), NAMES, reference=None)
    assert found.contrasts == []
    assert found.verdicts[0].startswith("Nothing to compare")


def test_everything_survives_json():
    arms = build.arms({"teacher": [95], "student alone": [80, 82], "student + kd": [86, 90]}, curves=build.curves())
    found = compare(arms, NAMES)
    again = Comparison.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.verdicts == found.verdicts
    assert again.to_dict() == found.to_dict()
    assert again.arm("teacher").cost == Cost(1_233_540, 40_800_000, 84_000, 0.93, 8.1, 64)


@pytest.mark.parametrize(
    ("reference", "names", "message"),
    [
        ("student allone", NAMES, "Did you mean 'student alone'"),
        ("zzz", NAMES, "reference=None"),
        ("student alone", NAMES[:4], "10 classes, but 4 class names"),
    ],
)
def test_a_wrong_call_is_explained(reference, names, message):
    with pytest.raises(ValueError, match=message):
        compare(build.arms({"student alone": [80], "student + kd": [86]}), names, reference)


def test_other_samples_cannot_be_compared():
    arms = build.arms({"student alone": [50]}) + build.arms({"student + kd": [50]}, samples=90)
    with pytest.raises(ValueError, match="same test samples"):
        compare(arms, NAMES)


def test_arms_and_runs_refuse_what_cannot_be_judged():
    good = torch.eye(3), torch.arange(3), torch.arange(3)
    with pytest.raises(ValueError, match="needs logits"):
        build.artifact("r", 0, "", good[0][0], good[1], good[2])
    with pytest.raises(ValueError, match="not finite for 1 of 3"):
        build.artifact("r", 0, "", torch.tensor([[float("nan"), 0, 0], [0, 1, 0], [0, 0, 1]]), good[1], good[2])
    with pytest.raises(ValueError, match="no labelled sample"):
        build.artifact("r", 0, "", good[0], torch.full((3,), -100), good[2])
    with pytest.raises(ValueError, match=r"targets 0\.\.2 for 2 classes"):
        build.artifact("r", 0, "", good[0][:, :2], good[1], good[2])
    run = build.artifact("r", 0, "", *good)
    with pytest.raises(ValueError, match="seed twice"):
        Arm("a", "alone", [run, run])
    with pytest.raises(ValueError, match="no run"):
        Arm("a", "alone", [])
    with pytest.raises(ValueError, match="of kind 'peer'"):
        Arm("a", "peer", [run])
    with pytest.raises(ValueError, match="name of its own"):
        compare([Arm("a", "alone", [run]), Arm("a", "alone", [run])], "abc", "a")
    with pytest.raises(ValueError, match="at least one arm"):
        compare([], NAMES)
    with pytest.raises(ValueError, match="2 pictures for 3"):
        compare([Arm("a", "alone", [run])], "abc", "a", images=torch.zeros(2, 1, 8, 8))
