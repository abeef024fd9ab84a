"""The card as a reader meets it: sections, titles, Markdown, JSON."""

import json
import re

import pytest
import torch

from kd_lightning.comparison.results import Comparison
from kd_lightning.report import html as page
from kd_lightning.report.markdown import markdown
from kd_lightning.report.plots.heatmap import Cell, heatmap
from kd_lightning.report.plots.sections import sections
from tests.report import build, card
from tests.report.test_pages import HOSTILE, Page


def test_every_section_is_there_with_its_finding():
    made = {section.key: section for section in sections(card.comparison())}
    assert list(made) == ["tradeoff", "training", "calibration", "robustness", "similarity", "classes", "confusion"]
    titles = [plot.title for section in made.values() for plot in section.plots]
    for expected in (
        "Under corruption student + kd is 20.0 points above student alone, on average over noise, blur and shift",
        "Task and distillation pull the same way at the end in student + kd: 60° apart",
        "student + kd: at the end the gradient of ‘kd’ is 4 times that of ‘ce’",
        "student + kd and the teacher: 0.75 at the last layer",
        "teacher most often takes class 7 for class 8 (10.0\u00a0%)",
    ):
        assert expected in titles
    assert any(title.startswith("Calibration error before and after temperature scaling: teacher") for title in titles)
    assert any(title.startswith("Change against student alone: student + kd takes class") for title in titles)


def test_what_was_not_measured_has_no_section():
    found = build.arms({"student alone": [80], "student + kd": [86]})
    made = {section.key for section in sections(page_of(found))}
    assert made == {"tradeoff", "calibration", "classes", "confusion"}


def page_of(arms) -> Comparison:
    from kd_lightning.comparison.results import compare

    return compare(arms, [f"c{i}" for i in range(10)])


def test_numbers_under_stable_names(tmp_path):
    paths = page.write_reports(tmp_path, card.comparison(), {})
    data = json.loads(paths["metrics"].read_text())
    arm = data["arms"]["student + kd"]
    assert arm["robustness"] == {"clean": 0.9} | {
        kind: pytest.approx([0.8, 0.7, 0.6]) for kind in ("noise", "blur", "shift")
    }
    assert data["robustness_strengths"]["shift"] == [0.125, 0.25, 0.375]
    assert arm["similarity"]["embedding"]["conv"] == 0.25
    assert arm["gradients"] == {"norms": {"ce": 0.5, "kd": 2.0}, "angle": pytest.approx(60.0)}
    assert arm["temperature"]["mean"] > 0
    assert {"ece_calibrated", "nll_calibrated", "rank_correlation", "corrupted_top1"} <= set(arm)
    assert sum(map(sum, arm["confusion"])) == 200
    assert arm["pareto"]["parameters"] == 0
    assert data["arms"]["teacher"]["pareto"]["parameters"] == 1
    assert data["confused_pairs"][0]["rates"]["teacher"] <= data["confused_pairs"][0]["rates"]["student alone"]
    assert data["contrasts"]["student + kd"]["seeds"] == [0, 1]


def test_many_classes_have_pairs_and_no_matrix(tmp_path):
    found = card.comparison(classes=31)
    assert (
        "confusion" not in json.loads(page.write_reports(tmp_path, found, {})["metrics"].read_text())["arms"]["teacher"]
    )
    (plot,) = next(section.plots for section in sections(found) if section.key == "confusion")
    assert plot.wide
    assert plot.title.startswith("Most confused: class ")
    assert "→" in plot.svg


def test_markdown_has_the_same_tables():
    text = markdown(card.comparison())
    for expected in (
        "Rank correlation with teacher",
        "| student + kd | 90.0 | 80.0 | 70.0 | 60.0 |",
        "| student + kd: conv | 0.900 | 0.250 |",
        "| student + kd | 0.500 | 2 | 60 |",
        "## Most confused pairs",
        "| parameters | teacher |",
    ):
        assert expected in text
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_hostile_names_in_pictures_of_cells_are_only_text(tmp_path):
    found = card.comparison(names=[HOSTILE, *(f"c{i}" for i in range(9))], layer=HOSTILE)
    text = page.write_reports(tmp_path, found, {})["html"].read_text(encoding="utf-8")
    seen = Page(text)
    assert "script" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "http" not in text


def test_cells_say_their_numbers_and_fade_with_them():
    svg = heatmap([[Cell(1.0, "loss", "27"), Cell(0.0, "loss")]], ["<a>"], ["b", "c"], "true", "answer", 'say "x"')
    assert svg.count("<rect") == 1
    assert ">27</text>" in svg
    assert "&lt;a&gt;" in svg
    assert 'aria-label="say &quot;x&quot;"' in svg
    assert heatmap([[Cell(0.5, "gain")]], ["a"], ["b"], "", "", "").count('fill-opacity="0.40"') == 1


def test_texts_stand_in_for_pictures():
    texts = [f"Sentence {i} <b>" for i in range(100)]
    seen = Page(page.html(card.comparison(images=texts), {}))
    assert "Sentence 81 <b>" in seen.text
    assert "img" not in seen.tags
    with pytest.raises(ValueError, match="99 texts for 100"):
        card.comparison(images=texts[1:])


def test_everything_survives_json():
    found = card.comparison()
    again = Comparison.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.arm("student + kd").metrics == found.arm("student + kd").metrics
    assert again.to_dict() == found.to_dict()


def test_the_page_stays_small_with_many_arms_and_photographs():
    from kd_lightning.comparison.results import compare

    rights = {"teacher": [97], "student alone": [50]} | {f"student + method {i}": [60 + i] for i in range(12)}
    text = page.html(
        compare(
            build.arms(rights, curves=build.curves()), [f"c{i}" for i in range(10)], images=torch.rand(100, 3, 96, 96)
        ),
        {},
    )
    assert len(text) < 2_000_000
    assert "student + method 11" in text
