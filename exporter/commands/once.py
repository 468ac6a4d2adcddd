"""The command `once`: polls each source once with a temporary state, and prints the result."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from exporter import logs
from exporter.assembly import Assembly, Clocks, NoPages
from exporter.config import Config, Objective, load
from exporter.duration import format_duration
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.snapshot.expectations import objective_of
from exporter.sources import SETTINGS
from exporter.state.opening import open_state


class ResultLine(msgspec.Struct, frozen=True, kw_only=True):
    """A job as one poll reported it."""

    source: str
    project: str
    job_name: str
    runs: int
    open: int
    last_result: str
    last_end: float | None
    last_duration: float | None
    failures: int
    objective: int | None = None


class PolledOnce(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll of a source reported; `error` is "" if it succeeded."""

    source: str
    outcome: str
    error: str
    lines: list[ResultLine]


def poll_once(config: Config, clocks: Clocks) -> Iterator[PolledOnce]:
    """Poll each source once, in the order of the config, with a temporary state."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), clocks.clock))
    ledger.load()
    assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPages(), clocks)
    assembly.configure()
    try:
        for polled in assembly.polled:
            outcome = polled.poller.poll(steps=False)
            yield PolledOnce(
                source=polled.name,
                outcome=outcome,
                error=polled.poller.status.error,
                lines=_lines(ledger, polled.name, config),
            )
    finally:
        assembly.close()
        ledger.close()


def _lines(ledger: Ledger, source: str, config: Config) -> list[ResultLine]:
    open_runs = ledger.open_runs(source)
    with ledger.locked():
        runs = ledger.store().count_runs(source)
    return [
        ResultLine(
            source=source,
            project=job.project,
            job_name=job.name,
            runs=runs.get(job.key, 0),
            open=sum(run.job == job.key for run in open_runs),
            last_result=job.last_run.result if job.last_run else "",
            last_end=job.last_run.end if job.last_run else None,
            last_duration=job.last_run.duration if job.last_run else None,
            failures=job.streak,
            objective=_place(config, objective_of(config, job)),
        )
        for job in sorted(ledger.jobs_of(source), key=lambda job: (job.project, job.name))
    ]


def _place(config: Config, objective: Objective | None) -> int | None:
    return None if objective is None else config.objectives.index(objective)


HEADINGS = ("SOURCE", "PROJECT", "JOB", "RUNS", "OPEN", "LAST RESULT", "FAILURES", "LAST END", "LAST DURATION")


def once(config_file: Path) -> int:
    """Poll each source once and print the result, without using the state. Return the exit code."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    failed = False
    lines: list[ResultLine] = []
    for polled in poll_once(load(config_file, os.environ, SETTINGS), Clocks()):
        lines += polled.lines
        if polled.outcome == "error":
            failed = True
            sys.stderr.write(f"{polled.source}: {polled.error}\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    sys.stdout.writelines(f"{row}\n" for row in table(lines, width))
    return 1 if failed else 0


NAMES = 3
"""Number of first columns whose long cells may be truncated."""

NEEDED = 7
"""Number of first columns that are always shown. Others are omitted if the terminal is too narrow."""

LEAST = 8
"""Minimum length of a truncated name."""


def table(lines: Iterable[ResultLine], width: int | None) -> list[str]:
    """Return the lines of a table, with names truncated to fit the width in characters; None for no limit."""
    rows = [HEADINGS, *map(_cells, lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + 2 * len(widths) - 2 > width:
        if (longest := max(widths[:NAMES])) > LEAST:
            widths[widths.index(longest)] -= 1
        elif len(widths) > NEEDED:
            widths.pop()
        else:
            break
    return [
        "  ".join(_cut(cell, wide).ljust(wide) for cell, wide in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def _cells(line: ResultLine) -> tuple[str, ...]:
    end = "" if line.last_end is None else datetime.fromtimestamp(line.last_end, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    duration = "" if line.last_duration is None else format_duration(round(line.last_duration))
    numbers = (str(line.runs), str(line.open), line.last_result, str(line.failures), end, duration)
    return (line.source, line.project, line.job_name, *numbers)
