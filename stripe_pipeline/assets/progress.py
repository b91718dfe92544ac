"""The progress of a run in its log. What a run did in the end belongs to `sync.report`."""

from __future__ import annotations

import threading
import time

import dagster as dg

from stripe_pipeline.sync.report import Report

SECONDS_BETWEEN_LINES = 10.0


class LoggedProgress:
    """Logs a line every ten seconds, whatever the run reads; a context manager."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._tables: dict[str, str] = {}
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._log_until_the_end, name="progress", daemon=True)

    def __enter__(self) -> LoggedProgress:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def listed(self, table: str, *, days: int, of: int, rows: int, seconds: float) -> None:
        """Note the progress of a table's list for the next line."""
        self._tables[table] = f"{table} {pace(days=days, of=of, rows=rows, seconds=seconds)}"

    def finished(self, report: Report) -> None:
        """Log what the run did."""
        self._log.info(report.summary)
        if report.table():
            self._log.info(report.text)

    @property
    def canceled(self) -> str:
        """What a run that was canceled keeps."""
        listed = "; ".join(self._tables.values())
        return (
            f"Canceled after {time.monotonic() - self._began:,.0f} s. Complete days are kept, and the same backfill"
            f" continues after them{f'. Read so far: {listed}' if listed else ''}"
        )

    def _log_until_the_end(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            lines = [f"Reading Stripe for {time.monotonic() - self._began:,.0f} s", *tuple(self._tables.values())]
            self._log.info("\n".join(lines))


def pace(*, days: int, of: int, rows: int, seconds: float) -> str:
    """The progress of a list, in words."""
    left = f", about {seconds * (of - days) / days:,.0f} s left" if 0 < days < of else ""
    return f"{days} of {of} days, {rows:,} rows, {rows / max(seconds, 0.001):,.0f} rows/s{left}"
