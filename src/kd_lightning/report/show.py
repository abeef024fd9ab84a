"""A comparison, shown: printed, written as reports, told to the loggers that take reports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kd_lightning.comparison.results import Comparison
from kd_lightning.report.console import console as report_console
from kd_lightning.report.html import write_reports
from kd_lightning.report.tables import console_table


def show(comparison: Comparison, folder: Path, settings: dict[str, Any], loggers: Iterable[Any]) -> None:
    """Print table and verdicts, write the reports, tell the loggers.

    Args:
        comparison: What is shown.
        folder: Of the run; the reports go there.
        settings: The whole configuration as plain values, for the report.
        loggers: Those that take reports get them; all are closed.
    """
    paths = write_reports(folder, comparison, settings)
    console = report_console()
    console.print(console_table(comparison))
    for verdict in comparison.verdicts:
        console.print(verdict, highlight=False, markup=False)
    for remark in comparison.remarks:
        console.print(remark, highlight=False, markup=False)
    for warning in comparison.warnings:
        console.print(warning, style="yellow", highlight=False, markup=False)
    console.print(f"Report: {paths['html']}", soft_wrap=True, highlight=False, markup=False)
    for logger in loggers:
        if hasattr(logger, "log_report"):
            logger.log_report(comparison, paths)
        logger.finalize("success")
