"""The output of commands: a run's progress, its report, and failures."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from stripe_pipeline.cli.terminal import complain, err, out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import (
    StripePipelineError,
    by_cause,
)
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.settings.environment import inbox_url

if TYPE_CHECKING:
    from stripe_pipeline.sync.pipeline import Pipeline
    from stripe_pipeline.sync.report import Progress as RunProgress
    from stripe_pipeline.sync.report import Report
    from stripe_pipeline.warehouse.warehouse import Warehouse


class ShowsProgress:
    """The resource of runs in this process: shows their progress in the terminal, if there is one, and keeps the error
    that ended a run."""

    def __init__(self, display: Display | None) -> None:
        self._display = display
        self.error: StripePipelineError | None = None

    @property
    def folder(self) -> DataFolder:
        """The data folder of the pipeline."""
        return DataFolder.from_environment()

    @property
    def run_locks(self) -> RunLocks:
        """The locks of the pipeline's active runs; raises `SettingsError`."""
        return RunLocks(self.folder, inbox_url())

    @contextlib.contextmanager
    def open(self, progress: RunProgress | None = None) -> Iterator[Pipeline]:
        """A pipeline for one run; raises `SettingsError`."""
        from stripe_pipeline.sync.pipeline import Pipeline

        try:
            with Pipeline.from_environment(self._display or progress) as pipeline:
                yield pipeline
        except StripePipelineError as error:
            self.error = error
            raise

    def look(self) -> contextlib.AbstractContextManager[Warehouse]:
        """The warehouse, read-only; raises `SettingsError`."""
        from stripe_pipeline.sync.pipeline import look

        return look()


def complain_of_report(report: Report) -> None:
    for names, error in by_cause(report.failures):
        complain(f"{', '.join(names)} not updated: {error}")


def failure_of(result: Any) -> BaseException:
    """The failure of a run that no error of this package ended: an interruption, or an unexpected error."""
    import dagster as dg

    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            cause = error.cause or error
            if cause.cls_name == dg.DagsterExecutionInterruptedError.__name__:
                return KeyboardInterrupt()
            reason = str(cause.message).strip().splitlines()[0]
            break
    else:
        reason = "Dagster gives no reason"
    return StripePipelineError(
        f"The run failed unexpectedly: {reason}", f"`stripe-pipeline dev` shows its log, under Runs, {result.run_id}"
    )


def show_report(report: Report) -> None:
    from stripe_pipeline.sync.report import FAILED, HEADINGS

    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "table" else "right")
    for row in report.table():
        table.add_row(*(Text(cell, "red") if cell == FAILED else cell for cell in row))
    if table.row_count:
        out.print(table)
    out.print(f"{report.summary}.")
    for note in report.notes:
        out.print(note)
    if report.surprises.seen:
        err.print(
            Text.assemble(
                ("warning: ", "yellow"),
                "Stripe sent values in an unexpected form (those of another type are kept in _extra):"
                f" {report.surprises}",
            )
        )


def print_line(label: str, text: str) -> None:
    """Print a line that begins with a label, wrapped to stand beside it."""
    first = f"{label}:" if label else ""
    out.print(
        textwrap.fill(
            text,
            80,
            initial_indent=f"{first:10}",
            subsequent_indent=" " * 10,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def approximately(number: int, *, exact: bool) -> str:
    """A number in words, rounded to two digits if it is an estimate."""
    return f"{number:,}" if exact or number < 10 else f"~{float(f'{number:.2g}'):,.0f}"


class Display:
    """Shows progress on a terminal only; keeps the run's report."""

    def __init__(self) -> None:
        self.report: Report | None = None
        # Dagster redirects standard error to its logs while a step runs; this console keeps writing to the terminal.
        self._terminal = Console(file=os.fdopen(os.dup(2), "w")) if err.is_terminal else None
        self._bars = Progress(
            TextColumn("{task.description:20}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("days, {task.fields[rows]:,} rows, {task.fields[speed]:,.0f}/s {task.fields[left]}"),
            console=self._terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown: Progress | Status | None = None

    def __enter__(self) -> Display:
        self._show("Reading from Stripe …")
        return self

    def __exit__(self, *exception: object) -> None:
        self._show(None)
        if self._terminal:
            self._terminal.file.close()

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """Move a table's bar."""
        if table not in self._tasks:
            self._tasks[table] = self._bars.add_task(table, total=of, rows=0, speed=0.0, left="")
        seconds_left = seconds * (of - days) / days
        left = f"{timedelta(seconds=round(seconds_left))} left" if seconds_left >= 1 else ""
        self._bars.update(
            self._tasks[table], completed=days, total=of, rows=rows, speed=rows / max(seconds, 0.001), left=left
        )
        if self._shown is not self._bars:
            self._show(self._bars)

    def finished(self, report: Report) -> None:
        """Keep the run's report."""
        self.report = report
        self._show("Recording the run in Dagster …")

    def _show(self, activity: Progress | str | None) -> None:
        if self._terminal is None:
            return
        if self._shown:
            self._shown.stop()
        self._shown = self._terminal.status(activity) if isinstance(activity, str) else activity
        if self._shown:
            self._shown.start()


def short_path(path: Path) -> str:
    """The path as a user would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
