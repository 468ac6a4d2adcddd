"""Real processes: commands as a user starts them, and daemons that start fast because all imports are done."""

import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

import exporter
from exporter.commands.run import run
from exporter.logs import LogOptions
from exporter.state.store import Connect
from exporter.web.address import Address

T = TypeVar("T")

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["__main__", "pytest", "tests.e2e.processes"])

FORKING = threading.Lock()
"""Lists of forked processes are not thread-safe."""

HOST = "127.0.0.1"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; fail it if `JOBRUN_TEST_NO_SKIP` is set."""
    (pytest.fail if os.environ.get("JOBRUN_TEST_NO_SKIP") else pytest.skip)(reason)


def require_tool(tool: str) -> str:
    """Return the path of a tool. Skip or fail the test if the tool is not installed."""
    return shutil.which(tool) or skip_or_fail(f"{tool} is not installed")


def free_port() -> int:
    """Return a free port."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def eventually(read: Callable[[], T], accept: Callable[[T], bool] = bool, seconds: float = 20.0) -> T:
    """Read a value until it is accepted or the time is over. Return the last value, for an assertion."""
    until = time.monotonic() + seconds
    while not accept(seen := read()) and time.monotonic() < until:
        time.sleep(0.02)
    return seen


class Command:
    """A process of `python -m exporter …`."""

    def __init__(self, folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "exporter", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(Path(exporter.__file__).parents[1]), **(environ or {})},
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """Return its exit code."""
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def run_command(folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; return its exit code and its output."""
    command = Command(folder, *arguments, environ=environ)
    try:
        return command.wait(), command.output
    finally:
        command.end()


class Daemon:
    """A process of the command `run`. It starts in a tenth of a second, forked from a process with all imports.

    The process first calls `prepare`.
    """

    def __init__(
        self,
        config_file: Path,
        port: int,
        *,
        connect: Connect = sqlite3.connect,
        environ: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.port = port
        self.log_file = config_file.with_suffix(".log")
        self.process: ForkServerProcess = FORKSERVER.Process(
            target=_run, args=(config_file, port, self.log_file, connect, environ or {}, prepare), daemon=True
        )
        with FORKING:
            self.process.start()

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def wait(self, seconds: float) -> bool:
        """Wait for its end. Return whether it ended in time."""
        return not eventually(self._alive, lambda alive: not alive, seconds)

    def _alive(self) -> bool:
        with FORKING:
            return self.process.is_alive()

    def kill(self) -> None:
        """Send SIGKILL and wait for its end."""
        self.process.kill()
        self.wait(10)

    def terminate(self) -> int | None:
        """Send SIGTERM; return its exit code, None if it does not end."""
        self.process.terminate()
        self.wait(10)
        return self.process.exitcode


def _run(  # noqa: PLR0917  # the arguments of a process
    config_file: Path,
    port: int,
    log_file: Path,
    connect: Connect,
    environ: Mapping[str, str],
    prepare: Callable[[], object] | None,
) -> None:
    if prepare is not None:
        prepare()
    sys.stderr = log_file.open("a", buffering=1)
    listen, log = Address(HOST, port), LogOptions("info")
    sys.exit(run(config_file, listen, None, log, connect=connect, environ=environ))


class KillAtStatement:
    """Connects to the database so that the process kills itself at the n-th statement in transactions.

    It first appends that statement to the file `kill_log`. `thread`: name of the only thread whose statements count.
    """

    def __init__(self, number: int, kill_log: Path, thread: str = "") -> None:
        self._left = number
        self._kill_log = kill_log
        self._thread = thread
        self._in_transaction = False

    def __call__(self, *arguments: Any, **options: Any) -> sqlite3.Connection:  # passed on unchanged
        connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)
        connection.set_trace_callback(self._trace)
        return connection

    def _trace(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._in_transaction = self._thread in ("", threading.current_thread().name)
        elif self._in_transaction:
            self._left -= 1
            if self._left == 0:
                with self._kill_log.open("a") as file:
                    file.write(f"{statement[:60]!r}\n")
                os.kill(os.getpid(), signal.SIGKILL)
            self._in_transaction = not statement.startswith(("COMMIT", "ROLLBACK"))


def runs_as_root() -> bool:
    """Return whether this process is root, which mounting needs."""
    return os.geteuid() == 0


def mount(*arguments: str) -> bool:
    """Run `mount`; return whether it succeeded."""
    return _succeeds(["mount", *arguments])


def unmount(folder: Path) -> bool:
    """Run `umount`; return whether it succeeded."""
    return _succeeds(["umount", "--lazy", str(folder)])


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
