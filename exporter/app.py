"""What the commands do."""

import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import yaml

from exporter import logs
from exporter.address import Address
from exporter.assembly import Assembly, Outside
from exporter.config import Config, load, loads
from exporter.daemon import Daemon
from exporter.errors import JobrunError
from exporter.once import poll_once
from exporter.simulators import SIMULATORS
from exporter.sources import SOURCES
from exporter.store import Connect
from exporter.webserver import ListenError

SETTINGS = {word: kind.settings for word, kind in SOURCES.items()}


def run(
    config_file: Path,
    listen: Address,
    web_config_file: Path | None,
    log: logs.LogOptions,
    *,
    connect: Connect = sqlite3.connect,
) -> int:
    """The daemon, until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    logs.configure(log, sys.stderr)
    return serve(lambda: load(config_file, os.environ, SETTINGS), listen, connect=connect)


def serve(
    read_config: Callable[[], Config],
    listen: Address,
    *,
    connect: Connect = sqlite3.connect,
    started: Callable[[Address], None] | None = None,
) -> int:
    """Runs a daemon in this process until a signal ends it; gives the exit code."""
    daemon = Daemon(read_config, listen, outside=Outside(), connect=connect)
    ended = threading.Event()
    reload = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()
        reload.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, lambda _number, _frame: reload.set())
    try:
        daemon.start()
    except ListenError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if started is not None:
        started(daemon.address)
    while reload.wait() and not ended.is_set():
        reload.clear()
        daemon.reload()
    if not daemon.stop():
        # A poll waits for an answer that may take long to come, and Python would wait for the poll. The state is
        # closed, so nothing can be lost.
        sys.stderr.flush()
        os._exit(0)
    return 0
