"""What the commands do."""

import contextlib
import functools
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from exporter import logs
from exporter.assembly import Assembly, Clocks
from exporter.config.config import Config, load, secrets
from exporter.daemon import Daemon
from exporter.duration import format_duration
from exporter.errors import SourceError
from exporter.explain.explain import explain
from exporter.history.backfill import backfill as write_past
from exporter.history.options import Wanted
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.once import NoPages, ResultLine, poll_once, unmatched_objectives
from exporter.signals import Signals
from exporter.sources import SOURCES
from exporter.state.opening import open_state
from exporter.state.store import Connect
from exporter.supervision import Manager
from exporter.web.address import Address
from exporter.web.application import RELOAD_INTERVAL
from exporter.web.connections import raise_open_file_limit
from exporter.web.file import WebFile
from exporter.web.server import ListenError

__all__ = ["SETTINGS", "explain", "once", "probe", "run", "serve"]

SETTINGS = {word: kind.settings for word, kind in SOURCES.items()}


def run(  # noqa: PLR0913  # everything outside is an argument
    config_file: Path,
    listen: Address,
    web_config_file: Path | None,
    log: logs.LogOptions,
    *,
    connect: Connect = sqlite3.connect,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """The daemon, until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    logs.configure(log, sys.stderr)
    web_file = None if web_config_file is None else WebFile(web_config_file, time.monotonic)
    manager = Manager(environ, os.getpid())
    read_config = functools.partial(load, config_file, environ, SETTINGS)
    mention_proxies(read_config(), environ)
    return serve(read_config, listen, connect=connect, web_file=web_file, manager=manager)


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Variables that other programs take their proxy from."""


def mention_proxies(config: Config, environ: Mapping[str, str]) -> None:
    """Log which variables name a proxy that is not used; their values may hold passwords."""
    named = [name for upper in PROXIES for name in (upper, upper.lower()) if environ.get(name)]
    without = [source.name for source in config.sources if not source.proxy_url]
    if named and without:
        text = "proxies of the environment are not used: set proxy_url of the sources that need one"
        structlog.get_logger().info(text, variables=", ".join(named), sources=", ".join(without))


TURN = 0.0002
"""Seconds that a thread may hold the interpreter while another wants it. An answer of the web server needs it some five
times, and may each time have to wait for a poll that long. Python's own 5 ms made three of four scrapes during a poll
take up to 14 ms longer; polls need no more CPU for shorter turns."""

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
"""Signals that end the daemon."""


def serve(  # noqa: PLR0913  # as above
    read_config: Callable[[], Config],
    listen: Address,
    *,
    connect: Connect = sqlite3.connect,
    web_file: WebFile | None = None,
    started: Callable[[Address], None] | None = None,
    manager: Manager | None = None,
) -> int:
    """Runs a daemon in this process until a signal ends it; gives the exit code."""
    sys.setswitchinterval(TURN)
    raise_open_file_limit()
    daemon = Daemon(read_config, listen, outside=Clocks(), connect=connect, web_file=web_file, manager=manager)
    signals = Signals(*ENDING, signal.SIGHUP)
    try:
        daemon.start()
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if started is not None:
        try:
            started(daemon.address)
        except BaseException:  # nobody reads the output any more
            daemon.stop()
            raise
    came = signals.wait()
    while not came & ENDING:
        daemon.reload()
        came = signals.collect(RELOAD_INTERVAL, ENDING) or signals.wait()
    if not daemon.stop():
        # A poll waits for an answer that may take long to come, and Python would wait for the poll. The state is
        # closed, so nothing can be lost.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(0)
    return 0


HEADINGS = ("SOURCE", "PROJECT", "JOB", "RUNS", "OPEN", "LAST RESULT", "FAILURES", "LAST END", "LAST DURATION")


def once(config_file: Path) -> int:
    """Polls every source once and prints what it saw; touches no state."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    problems = 0
    lines: list[ResultLine] = []
    for polled in poll_once(load(config_file, os.environ, SETTINGS), Clocks()):
        lines += polled.lines
        if polled.outcome == "error":
            problems += 1
            sys.stderr.write(f"{polled.source}: {polled.error}\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    sys.stdout.writelines(f"{row}\n" for row in table(lines, width))
    return 1 if problems else 0


NAMES = 3
"""The first columns, of which long cells are cut."""

NEEDED = 7
"""The first columns, which are always shown; the others go where the terminal is too narrow."""

LEAST = 8
"""Characters of a name that are always shown."""


def table(lines: Iterable[ResultLine], width: int | None) -> list[str]:
    """Return the rows of a table, its names cut so that it fits into so many characters; None: as long as it gets."""
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


def backfill(config_file: Path, wanted: Wanted) -> int:
    """Writes what happened before the daemon counted, and says how to hand it to Prometheus."""
    logs.configure(logs.LogOptions("warning"), sys.stderr)
    config = load(config_file, os.environ, SETTINGS)
    logs.guard(secrets(config))
    written = write_past(config, wanted, Clocks(), lambda text: sys.stderr.write(f"{text}\n"))
    sys.stdout.write(
        f"{wanted.output}: {written.runs} endings of {written.jobs} jobs, {written.samples} samples, "
        f"{written.size / 1e6:.1f} MB\n"
        f"next: promtool tsdb create-blocks-from openmetrics --max-block-duration=24h {wanted.output} DATA_DIRECTORY\n"
    )
    return 0


def probe(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Signs in to every source and asks it once: its name, whether it answered well, and a sentence."""
    ledger = Ledger(lambda: open_state(Path(":memory:"), Clocks().clock))
    assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPages(), Clocks())
    for name, source in assembly.sources.items():
        try:
            yield name, True, source.probe()
        except SourceError as error:
            yield name, False, str(error)
    assembly.close()


def unmatched(config: Config) -> Iterator[str]:
    """Poll each source once and say which objectives no job has."""
    logs.configure(logs.LogOptions("error"), sys.stderr)
    yield from unmatched_objectives(config, Clocks())
