"""The report as a reader meets it: console, Markdown, JSON and the page."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from rich.console import Console

from kd_lightning.comparison.results import Arm, compare
from kd_lightning.report import html as page
from kd_lightning.report.markdown import markdown
from kd_lightning.report.plots.pictures import picture_uri
from kd_lightning.report.plots.sections import all_plots
from kd_lightning.report.tables import console_table
from tests.report import build

FULL = {"teacher": [97], "student alone": [80, 82, 84], "student + kd": [86, 90, 94]}
HOSTILE = "<script>alert('x')</script>\" onload=\"x | $\\frac{$ `b` \ud800\u202e\n# h"


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def comparison(rights=FULL, classes=10, names=None, reference="student alone", images=None, **more):
    arms = build.arms(rights, classes, **more)
    return compare(arms, names or [f"class {i}" for i in range(classes)], reference, images)


def shown(found, width=100):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(console_table(found))
    return console.export_text()


def test_three_files_are_written_whole(tmp_path):
    found = comparison(curves=build.curves())
    paths = page.write_reports(tmp_path / "new", found, {"seed": 0})
    assert {key: path.name for key, path in paths.items()} == {
        "metrics": "metrics.json",
        "markdown": "report.md",
        "html": "report.html",
    }
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.json", "report.html", "report.md"]
    assert found.verdicts[0] in paths["markdown"].read_text()
    assert found.verdicts[0] in Page(paths["html"].read_text()).text


def test_an_interrupted_write_leaves_the_old_report(tmp_path, monkeypatch):
    page.write_reports(tmp_path, comparison(), {})
    before = (tmp_path / "metrics.json").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        page.write_reports(tmp_path, comparison({"student alone": [1], "student + kd": [2]}), {})
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_metrics_are_numbers_under_stable_names(tmp_path):
    text = page.write_reports(tmp_path, comparison(), {})["metrics"].read_text()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["arms"]["student + kd"]["top1"]["mean"] == pytest.approx(0.90)
    assert data["arms"]["student + kd"]["top1"]["values"] == pytest.approx([0.86, 0.90, 0.94])
    assert data["arms"]["teacher"]["cost"]["parameters"] == 1_233_540
    assert data["contrasts"]["student + kd"]["top1_difference"]["mean"] == pytest.approx(0.08)
    assert data["contrasts"]["student + kd"]["mcnemar"][0] == {"won": 6, "lost": 0, "p": pytest.approx(2 / 2**6)}
    assert list(data["arms"]["teacher"]) == sorted(data["arms"]["teacher"])

    def leaves(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if inner is None else [leaf for one in inner for leaf in leaves(one)]

    assert all(leaf is None or isinstance(leaf, int | float) for leaf in leaves(data))


def test_a_class_without_a_sample_has_no_number(tmp_path):
    target = torch.arange(90) % 9
    arms = [Arm("student alone", "alone", [build.run(target != 1, target, 10)])]
    arms.append(Arm("kd", "distilled", [build.run(target != 2, target, 10)]))
    paths = page.write_reports(tmp_path, compare(arms, [f"c{i}" for i in range(10)]), {})
    data = json.loads(paths["metrics"].read_text())
    assert data["arms"]["kd"]["per_class"]["c9"] is None
    assert data["arms"]["kd"]["per_class"]["c2"] == 0.0
    assert "nan" not in paths["html"].read_text().lower()
    assert "| c9 |" not in paths["markdown"].read_text()


def test_the_console_shows_every_measure_in_100_columns():
    text = shown(comparison())
    assert max(map(len, text.splitlines())) <= 100
    for expected in (
        "82.00 ± 2.00",
        "90.00 ± 4.00",
        "97.00",
        "1.23 M",
        "40.8 M",
        "84 kB",
        "Latency, batch 64 (ms)",
        "8.10",
    ):
        assert expected in text


def test_many_arms_still_fit_the_console():
    rights = FULL | {f"student + method {i}": [85, 86, 87] for i in range(6)}
    text = shown(comparison(rights))
    assert max(map(len, text.splitlines())) <= 100
    assert "student + method 5" in text
    assert "90.00 ± 4.00" in text


def test_hostile_names_are_only_text(tmp_path):
    names = [HOSTILE, "$\\frac{$", "\ud800", *(f"c{i}" for i in range(7))]
    rights = FULL | {HOSTILE: [70, 75, 79]}
    found = comparison(rights, names=names, curves=[{"epoch": 0, f"train/{HOSTILE}": 1.0, "train/loss": 2.0}] * 2)
    paths = page.write_reports(tmp_path, found, {HOSTILE: {"deep": [HOSTILE]}})
    seen = Page(paths["html"].read_text(encoding="utf-8"))
    assert "script" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "<script>alert('x')" in seen.text
    assert "<script" not in paths["markdown"].read_text(encoding="utf-8")
    assert "| # h" not in paths["markdown"].read_text(encoding="utf-8").replace("\\|", "")
    assert "<script>" in shown(found)
    assert "$\\frac{$" in "".join(plot.svg for plot in all_plots(found))
    (markdown(found) + shown(found) + all_plots(found)[-1].svg).encode("utf-8")


def test_markdown_tables_keep_their_columns():
    text = markdown(comparison(names=["a|b", *"bcdefghij"]))
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1


def test_the_page_refers_to_nothing_outside():
    text = page.html(comparison(images=torch.rand(100, 1, 8, 8), curves=build.curves()), {"a": 1})
    assert "http" not in text
    assert "@import" not in text
    references = [value for name, value in Page(text).attributes if name in ("src", "href", "xlink:href")]
    assert references
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in references)


def test_plots_take_their_colours_from_the_page_and_name_their_units():
    plots = all_plots(comparison(curves=build.curves()))
    assert len(plots) == 9
    text = "".join(plot.svg for plot in plots)
    assert "currentColor" in text
    assert "#0a0b0c" not in text
    for name in ("teacher", "alone", "blue"):
        assert f"var(--{name}, " in text
    for label in (
        "test top-1 (%)",
        "confidence (%)",
        "epoch",
        "validation top-1 (%)",
        "change against student alone (points)",
    ):
        assert label in text


def test_titles_say_the_finding():
    target = torch.arange(100) % 10
    before, after = target != 8, target != 3
    arms = [Arm("student alone", "alone", [build.run(before, target, 10)])]
    arms.append(Arm("kd", "distilled", [build.run(after, target, 10)]))
    titles = [plot.title for plot in all_plots(compare(arms, list("0123456789")))]
    assert "kd helps class 8 most (+100.0 points) and hurts class 3 most (−100.0 points)" in titles


def test_empty_curves_leave_their_plots_out():
    assert len(all_plots(comparison())) == len(all_plots(comparison(curves=build.curves()))) - 2
    broken = [{"epoch": "", "val/top1": "nan", "train/loss": "x"}]
    assert len(all_plots(comparison(curves=broken))) == 7


@pytest.mark.parametrize("kind", ["gain", "loss", "none", "one seed"])
def test_the_verdict_stands_first(kind):
    heads = {
        "gain": ([86, 90, 94], "Distillation helps"),
        "loss": ([76, 76, 76], "Distillation hurts"),
        "none": ([80, 83, 83], "No significant difference"),
        "one seed": ([86], "One seed cannot tell"),
    }
    scores, head = heads[kind]
    text = Page(page.html(comparison({"student alone": [80, 82, 84], "student + kd": scores}), {})).text
    assert text.index(head) < text.index("Result on the test split")


@pytest.mark.parametrize(("classes", "rows"), [(2, 2), (5, 5), (40, 40), (41, 30), (1000, 30)])
def test_any_number_of_classes(classes, rows, tmp_path):
    found = comparison({"teacher": [1900], "student alone": [900], "student + kd": [950]}, classes, samples=2000)
    paths = page.write_reports(tmp_path, found, {})
    text = paths["html"].read_text()
    assert ("Top-5" in text) == (classes > 5)
    assert text.count('<td class="name">class ') == rows
    assert ("classes between the best and the worst are left out" in text) == (rows < classes)


def test_no_teacher_no_reference_no_cost(tmp_path):
    arms = build.arms({"student + kd": [80]})
    arms[0] = Arm(arms[0].name, "distilled", arms[0].runs)
    paths = page.write_reports(tmp_path, compare(arms, [*"0123456789"], reference=None), {})
    text = Page(paths["html"].read_text()).text
    assert "Nothing to compare" in text
    assert "Agreement" not in text
    assert "Latency" not in text


def test_samples_show_their_pictures_and_both_answers():
    found = comparison({"student alone": [80], "student + kd": [83]}, images=torch.rand(100, 1, 8, 8))
    seen = Page(page.html(found, {}))
    alts = [value for name, value in seen.attributes if name == "alt"]
    assert alts == ["sample 80", "sample 81", "sample 82"]
    assert "class 0 taken for class 1" in re.sub(r"\s+", " ", seen.text)


@pytest.mark.parametrize(
    ("image", "mode", "corner"),
    [
        (torch.full((1, 8, 8), 200, dtype=torch.uint8), "L", 200),
        (torch.ones(3, 8, 8), "RGB", (255, 255, 255)),
        (torch.linspace(-2, 2, 64).reshape(8, 8), "L", 0),
        (torch.zeros(5, 200, 300), "L", 0),
    ],
)
def test_pictures_are_small(image, mode, corner):
    head, _, data = picture_uri(image).partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    kind = "jpeg" if max(image.shape) > 48 else "png"
    assert head == f"data:image/{kind};base64"
    assert (picture.format, picture.mode, picture.getpixel((0, 0))) == (kind.upper(), mode, corner)
    assert max(picture.size) <= 96
