"""A PostgreSQL server on a free port, whose data is deleted at the end."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.e2e.processes import HOST, free_port, skip_or_fail

NEWEST_FIRST = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)

SETTINGS = "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "shared_buffers=32MB"

WATCHDOG = """cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -CONT "$pid" && kill -QUIT "$pid"
sleep 1
rm -rf "$1"
"""
"""Waits for the end of its input, then stops a server at once and deletes its folder."""


class Server:
    """A server. Each test creates its own database in it. `environ`: variables to add to its environment."""

    def __init__(self, folder: Path, programs: Path, primary: "Server | None" = None) -> None:
        self.port = free_port()
        self.data = folder / "data"
        self._folder = folder
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.environ: dict[str, str] = {}
        self._programs = programs
        self._databases = count(1)
        if primary is not None:
            source = f"--dbname=postgresql://jobrun@{HOST}:{primary.port}/postgres"
            self._run("pg_basebackup", source, f"--pgdata={self.data}", "--write-recovery-conf", "--checkpoint=fast")
            return
        self._run("initdb", "--auth=trust", "--username=jobrun", "--encoding=UTF8", "--no-sync", str(self.data))

    def _run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL, which refuses to be run by root."""
        as_other: dict[str, Any] = (
            {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        command = [str(self._programs / program), *arguments]
        environ = {**os.environ, **self.environ}
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=environ, **as_other)  # noqa: S603  # runs its own programs
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"

    def _watch(self) -> None:
        """Stop the server and delete its data when this process ends, also after SIGKILL: the pipe closes then."""
        if self._watchdog is None:
            self._watchdog = subprocess.Popen(  # noqa: S603  # a fixed script
                ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._folder)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def unwatch(self) -> None:
        """End the watchdog of a server that was stopped."""
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()

    def pid(self) -> int:
        """Return the process ID of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def start(self, *settings: str) -> None:
        self._watch()
        options = " ".join(f"-c {setting}" for setting in (*SETTINGS, f"port={self.port}", *settings))
        self._run("pg_ctl", "start", "-w", f"--pgdata={self.data}", f"--log={self.data}/log", f"--options={options}")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "stop", "-w", f"--pgdata={self.data}", f"--mode={mode}")

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-w", f"--pgdata={self.data}")

    def fall_behind(self) -> None:
        """Stop receiving the commits of the primary."""
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://jobrun@{HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.url(database), autocommit=True)

    def new_database(self, options: str = "") -> str:
        """Create a database. Return its URL."""
        name = f"test_{next(self._databases)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)


@contextmanager
def server() -> Iterator[Server]:
    """Yield a server. Skip or fail the test if PostgreSQL is not installed."""
    with _running(None) as running:
        yield running


@contextmanager
def standby(primary: Server) -> Iterator[Server]:
    """Yield an asynchronous standby of a server."""
    with _running(primary) as running:
        yield running


@contextmanager
def _running(primary: Server | None) -> Iterator[Server]:
    if not NEWEST_FIRST:
        skip_or_fail("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="jobrun-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    try:
        running = Server(folder, NEWEST_FIRST[0], primary)
        running.start()
        try:
            yield running
        finally:
            running.stop()
            running.unwatch()
    finally:
        shutil.rmtree(folder)
