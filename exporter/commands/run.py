"""The command `run`: runs the daemon until a signal stops it."""

import contextlib
import functools
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from exporter import logs
from exporter.assembly import Clocks
from exporter.commands.config_warnings import config_warnings
from exporter.config import Config, load
from exporter.daemon import Daemon
from exporter.signals import Signals
from exporter.sources import KNOWN_NAMES
from exporter.state.store import Connect
from exporter.supervision import Manager
from exporter.web.address import Address
from exporter.web.application import RELOAD_INTERVAL
from exporter.web.server import ListenError, raise_open_file_limit

if TYPE_CHECKING:
    from exporter.web.file import WebFile


def run(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
    config_file: Path,
    listen: Address,
    web_config_file: Path | None,
    log: logs.LogOptions,
    *,
    connect: Connect = sqlite3.connect,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the config. Return the exit code."""
    logs.configure(log, sys.stderr)
    web_file = None
    if web_config_file is not None:
        from exporter.web.file import WebFile  # noqa: PLC0415  # most daemons have no web config file

        web_file = WebFile(web_config_file, time.monotonic)
    read_config = functools.partial(load_with_warnings, config_file, environ)
    return serve(read_config, listen, connect=connect, web_file=web_file, manager=Manager(environ, os.getpid()))


def load_with_warnings(config_file: Path, environ: Mapping[str, str]) -> Config:
    """Return the config, and log its warnings. Raises ConfigError."""
    config = load(config_file, environ, KNOWN_NAMES)
    for warning in config_warnings(config, time.time()):
        structlog.get_logger().warning("config may be wrong", key=warning.path, problem=warning.message)
    log_unused_proxies(config, environ)
    return config


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Environment variables that name proxies. The exporter ignores them."""


def log_unused_proxies(config: Config, environ: Mapping[str, str]) -> None:
    """Log the names of environment variables for proxies that are not used. Their values may contain passwords."""
    variables = [name for upper in PROXIES for name in (upper, upper.lower()) if environ.get(name)]
    sources = [source.name for source in config.sources if not source.proxy_url]
    if variables and sources:
        text = "proxies in the environment are not used; set proxy_url of the sources that need one"
        structlog.get_logger().info(text, variables=", ".join(variables), sources=", ".join(sources))


# For each response, the web server's thread waits for the interpreter about five times. During a poll, each wait may
# take this long. With Python's default of 5 ms, three of four scrapes took up to 14 ms longer. The shorter interval
# costs polls no CPU.
SWITCH_INTERVAL = 0.0002
"""Seconds for which a thread may use the interpreter while another one waits for it."""

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def serve(  # noqa: PLR0913  # as above
    read_config: Callable[[], Config],
    listen: Address,
    *,
    connect: Connect = sqlite3.connect,
    web_file: "WebFile | None" = None,
    started: Callable[[Address], None] | None = None,
    manager: Manager | None = None,
) -> int:
    """Run a daemon until a signal stops it. Return the exit code. `started`: called with the daemon's address."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    raise_open_file_limit()
    daemon = Daemon(read_config, listen, clocks=Clocks(), connect=connect, web_file=web_file, manager=manager)
    signals = Signals(*STOP_SIGNALS, signal.SIGHUP)
    try:
        daemon.start()
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if started is not None:
        try:
            started(daemon.address)
        except BaseException:  # its output may be closed
            daemon.stop()
            raise
    received = signals.wait()
    while not received & STOP_SIGNALS:
        daemon.reload()
        received = signals.collect(RELOAD_INTERVAL, STOP_SIGNALS) or signals.wait()
    if not daemon.stop():
        # A normal exit would wait until APIs respond to polls. The state is closed, so nothing is lost.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(0)
    return 0
