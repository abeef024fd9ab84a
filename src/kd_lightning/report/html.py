"""The report as one self-contained page, and the writing of all three report files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kd_lightning.comparison.results import Comparison
from kd_lightning.core.visible import visible
from kd_lightning.measures import format as fmt
from kd_lightning.report.choices import choice_rows, paper_protocol
from kd_lightning.report.markdown import markdown
from kd_lightning.report.numbers import metrics
from kd_lightning.report.plots.balance import balance, class_rows
from kd_lightning.report.plots.pictures import samples, shown_each
from kd_lightning.report.plots.sections import sections
from kd_lightning.report.plots.svg import looks
from kd_lightning.report.tables import main_table, test_table
from kd_lightning.version import __version__

MARKS = {"gain": "▲", "loss": "▼", "none": "=", "unknown": "?"}
HEADS = {"gain": ("Distillation helps", "Better"), "loss": ("Distillation hurts", "Worse")}


def write_reports(
    folder: str | os.PathLike[str], comparison: Comparison, settings: Mapping[str, Any]
) -> dict[str, Path]:
    """Write `metrics.json` (numbers only), `report.md` and `report.html`, each whole or not at all.

    Args:
        folder: made if it does not exist.
        comparison: what to report.
        settings: shown folded away at the end of the page; nested mappings and lists are fine.

    Returns:
        {'metrics': path, 'markdown': path, 'html': path}.

    Raises:
        OSError: if the folder cannot be written; an older report in it stays as it was.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(metrics(comparison), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    texts = {
        "metrics": ("metrics.json", numbers + "\n"),
        "markdown": ("report.md", visible(markdown(comparison))),
        "html": ("report.html", visible(html(comparison, settings))),
    }
    return {key: _write(place / name, text) for key, (name, text) in texts.items()}


def html(comparison: Comparison, settings: Mapping[str, Any]) -> str:
    """The page; it refers to nothing outside itself, and every foreign string in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(clean=fmt.clean, percent=fmt.percent, points=fmt.points)
    rows, left_out = class_rows(comparison) if comparison.kind.classes else ([], 0)
    return environment.get_template("template.html.j2").render(
        comparison=comparison,
        looks=looks(comparison),
        verdicts=_verdicts(comparison),
        columns=main_table(comparison),
        tests=test_table(comparison),
        choices=choice_rows(comparison),
        paper_protocol=paper_protocol(comparison),
        sections=sections(comparison),
        class_rows=rows,
        classes_left_out=left_out,
        balances=[balance(comparison, arm) for arm in comparison.arms] if comparison.kind.classes else [],
        differences=_differences(comparison),
        shown=shown_each(comparison),
        seeds=max(len(arm.seeds) for arm in comparison.arms),
        samples=int(comparison.support.sum()),
        settings=_settings(settings),
        listed=fmt.listed,
        version=__version__,
    )


def _verdicts(comparison: Comparison) -> list[dict[str, str]]:
    """Mark, heading and sentence of each contrast."""
    shown = []
    for contrast, text in zip_longest(comparison.tests, comparison.verdicts):
        found = contrast.outcome if contrast else "unknown"
        if found in ("gain", "loss"):
            taught = comparison.arm(contrast.name).distilled
            alone = comparison.arm(contrast.reference).alone
            head = HEADS[found][0 if taught and alone else 1]
        else:  # the sentence begins with its own heading, before any foreign string
            head, _, text = text.partition(": ")
        shown.append({"outcome": found, "mark": MARKS[found], "head": head, "text": text})
    return shown


def _differences(comparison: Comparison) -> list[dict[str, Any]]:
    """Samples won and lost of each contrast that has a seed in common with its reference."""
    return [
        {
            "contrast": one,
            "seed": one.seeds[0],
            "sides": [
                ("won", len(one.won), samples(comparison, one, one.won)),
                ("lost", len(one.lost), samples(comparison, one, one.lost)),
            ],
        }
        for one in comparison.contrasts
        if one.seeds and comparison.kind.classes
    ]


def _settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values, in the given order."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += _settings(value, f"{name}.")
        else:
            rows.append((fmt.clean(name, 200), fmt.clean(value, 500)))
    return rows


def _write(path: Path, text: str) -> Path:
    """Beside its place first, then moved there in one step."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private; a report is read by others
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
