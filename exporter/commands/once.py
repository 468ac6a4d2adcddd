"""The command `once`: polls each source once and prints the result. It does not use the state."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from exporter import logs
from exporter.assembly import Assembly, Clocks, NoPublisher
from exporter.commands.table import aligned
from exporter.config import Config, load
from exporter.counting.records import JobState
from exporter.duration import format_duration
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state
from exporter.times import format_utc


class PolledOnce(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one poll. `outcome`: `success`, `partial` or `error`. `rows`: cells of the table, one row per job."""

    source: str
    outcome: str
    error: str
    jobs: list[JobState]
    rows: list[tuple[str, ...]]


def poll_once(config: Config, clocks: Clocks) -> Iterator[PolledOnce]:
    """Poll each source once, in the order of the config, with a state in memory."""
    ledger, assembly = in_memory(config, clocks)
    ledger.load()
    assembly.configure()
    try:
        for polled in assembly.scheduled:
            outcome = polled.poller.poll(steps=False)
            jobs = sorted(ledger.jobs_of(polled.name), key=lambda job: (job.project, job.name))
            error, rows = polled.poller.status.error, _rows(ledger, polled.name, jobs)
            yield PolledOnce(source=polled.name, outcome=outcome, error=error, jobs=jobs, rows=rows)
    finally:
        assembly.close()
        ledger.close()


def in_memory(config: Config, clocks: Clocks) -> tuple[Ledger, Assembly]:
    """Return a ledger whose state is in memory, and the sources of a config, which use this ledger."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), clocks.clock))
    return ledger, Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPublisher(), clocks)


def _rows(ledger: Ledger, source: str, jobs: Iterable[JobState]) -> list[tuple[str, ...]]:
    with ledger.lock:
        runs = ledger.store().count_runs(source)
    active = Counter(run.job for run in ledger.open_runs(source))
    return [
        (job.source, job.project, job.name, str(runs.get(job.key, 0)), str(active[job.key]), *_results(job))
        for job in jobs
    ]


def _results(job: JobState) -> tuple[str, ...]:
    last = job.last_run
    if last is None:
        return "", str(job.streak), "", ""
    end = "" if last.end is None else format_utc(last.end).replace("T", " ")
    duration = "" if last.duration is None else format_duration(round(last.duration))
    return last.result, str(job.streak), end, duration


HEADINGS = (
    *("SOURCE", "PROJECT", "JOB", "RUNS", "ACTIVE"),
    *("LAST RESULT", "FAILURES IN A ROW", "LAST END", "LAST DURATION"),
)


def once(config_file: Path) -> int:
    """Poll each source once and print the result. Return the exit code."""
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
"""How many of the first columns may be truncated."""

REQUIRED_COLUMNS = 7
"""How many of the first columns are always shown. A narrow terminal has no room for the others."""

MIN_NAME_WIDTH = 8
"""Minimum width of a truncated column."""


def table(rows: Iterable[tuple[str, ...]], width: int | None) -> list[str]:
    """Return the lines of the table. `width`: maximum number of characters per line; None for no limit."""
    rows = [HEADINGS, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + 2 * len(widths) - 2 > width:
        if (longest := max(widths[:NAME_COLUMNS])) > MIN_NAME_WIDTH:
            widths[widths.index(longest)] -= 1
        elif len(widths) > REQUIRED_COLUMNS:
            widths.pop()
        else:
            break
    return aligned(rows, widths)
