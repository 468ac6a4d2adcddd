"""The command `once`: polls each source once with a temporary state, and prints the result."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from exporter import logs
from exporter.assembly import Assembly, Clocks, NoPages
from exporter.config import Config, load
from exporter.counting.records import JobState
from exporter.duration import format_duration
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state


class PolledOnce(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one poll of a source: its jobs, and a row of cells per job. `error`: "" if the poll succeeded."""

    source: str
    outcome: str
    error: str
    jobs: list[JobState]
    rows: list[tuple[str, ...]]


def poll_once(config: Config, clocks: Clocks) -> Iterator[PolledOnce]:
    """Poll each source once, in the order of the config, with a temporary state."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), clocks.clock))
    ledger.load()
    assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPages(), clocks)
    assembly.configure()
    try:
        for polled in assembly.polled:
            outcome = polled.poller.poll(steps=False)
            jobs = sorted(ledger.jobs_of(polled.name), key=lambda job: (job.project, job.name))
            error, rows = polled.poller.status.error, _rows(ledger, polled.name, jobs)
            yield PolledOnce(source=polled.name, outcome=outcome, error=error, jobs=jobs, rows=rows)
    finally:
        assembly.close()
        ledger.close()


def _rows(ledger: Ledger, source: str, jobs: Iterable[JobState]) -> list[tuple[str, ...]]:
    with ledger.lock:
        runs = ledger.store().count_runs(source)
    active = Counter(run.job for run in ledger.open_runs(source))
    return [cells(job, runs.get(job.key, 0), active[job.key]) for job in jobs]


def cells(job: JobState, runs: int, active: int) -> tuple[str, ...]:
    """Return the cells of a job's row."""
    last = job.last_run
    names, numbers = (job.source, job.project, job.name), (str(runs), str(active))
    if last is None:
        return (*names, *numbers, "", str(job.streak), "", "")
    end = "" if last.end is None else datetime.fromtimestamp(last.end, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    duration = "" if last.duration is None else format_duration(round(last.duration))
    return (*names, *numbers, last.result, str(job.streak), end, duration)


HEADINGS = (
    "SOURCE",
    "PROJECT",
    "JOB",
    "RUNS",
    "ACTIVE",
    "LAST RESULT",
    "FAILURES IN A ROW",
    "LAST END",
    "LAST DURATION",
)


def once(config_file: Path) -> int:
    """Poll each source once and print the result, without using the state. Return the exit code."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    failed = False
    rows: list[tuple[str, ...]] = []
    for polled in poll_once(load(config_file, os.environ, KNOWN_NAMES), Clocks()):
        rows += polled.rows
        if polled.outcome == "error":
            failed = True
            sys.stderr.write(f"{polled.source}: {polled.error}\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    sys.stdout.writelines(f"{row}\n" for row in table(rows, width))
    return 1 if failed else 0


NAME_COLUMNS = 3
"""Number of leading columns whose cells may be truncated."""

REQUIRED_COLUMNS = 7
"""Number of leading columns that are always shown. Others are omitted if the terminal is too narrow."""

MIN_NAME_WIDTH = 8
"""Minimum length of a truncated name."""


def table(rows: Iterable[tuple[str, ...]], width: int | None) -> list[str]:
    """Return the lines of a table, with names truncated to fit `width` characters; None for no limit."""
    rows = [HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + 2 * len(widths) - 2 > width:
        if (longest := max(widths[:NAME_COLUMNS])) > MIN_NAME_WIDTH:
            widths[widths.index(longest)] -= 1
        elif len(widths) > REQUIRED_COLUMNS:
            widths.pop()
        else:
            break
    return [
        "  ".join(
            _cut(cell, column_width).ljust(column_width) for cell, column_width in zip(row, widths, strict=False)
        ).rstrip()
        for row in rows
    ]


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"
