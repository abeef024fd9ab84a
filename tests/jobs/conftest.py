"""Finished runs that several files of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.finished import TEXT_FILES, finished_text_run


@pytest.fixture(scope="session")
def text_run(tmp_path_factory):
    """Task -> its finished run with exported files, made when it is first asked for."""
    runs: dict[str, Path] = {}

    def get(task: str) -> Path:
        if task not in runs:
            more = [f"export.formats=[{TEXT_FILES[task]}]", "export.accuracy_drop=0.1"]
            runs[task] = finished_text_run(tmp_path_factory.mktemp(task), task, *more)
        return runs[task]

    return get
