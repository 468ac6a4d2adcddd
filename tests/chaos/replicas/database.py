"""A primary with its standby, and PgBouncer: troubles kill, freeze, rewind and fail over them."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests import postgres
from tests.chaos.replicas.wires import Wire, steady_port
from tests.e2e.processes import HOST, eventually, mount, require_tool, runs_as_root, skip_or_fail, unmount

NAME = "jobrun"

IMPATIENT = "-c statement_timeout=10s -c lock_timeout=5s"

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
"""The library that makes clocks wrong; None where it is not installed."""

FAST = ("fsync=off", "wal_keep_size=64MB", "max_wal_senders=4", "max_connections=100")
"""Only processes are killed here, never the machine, so nothing need reach the disk."""


class Database:
    """Two servers, of which one is the primary. `places` keep their order: a URL names both.

    Args:
        folder: Where their data is.
        moving_clock: Whether `set_clock` works.
    """

    def __init__(self, folder: Path, *, moving_clock: bool = False) -> None:
        self.disk = folder / "disk"
        self._clock = folder / "clock"
        self._environ = faked(self._clock) if moving_clock else {}
        self.set_clock(0)
        self._made = 0
        self.places = [self._server(None)]
        self.primary = 0
        with self._primary.connect() as connection:
            connection.execute(f"CREATE DATABASE {NAME}")
        self.places.append(self._server(self._primary))
        self.failovers = 0

    @property
    def _primary(self) -> postgres.Server:
        return self.places[self.primary]

    @property
    def _standby(self) -> postgres.Server:
        return self.places[1 - self.primary]

    def _server(self, source: postgres.Server | None) -> postgres.Server:
        self._made += 1
        folder = self.disk / str(self._made)
        folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        server = postgres.Server(folder, postgres.NEWEST_FIRST[0], source)
        server.environ, server.port = self._environ, steady_port()
        server.start(*FAST)
        return server

    def port(self, place: int) -> int:
        """Return the port of the server in a place, for a wire."""
        return self.places[place].port

    def primary_port(self) -> int:
        """Return the port of the primary, for a wire."""
        return self._primary.port

    def connect(self) -> psycopg.Connection:
        """Connect to the primary without wires. Statements have a short timeout, because it may be frozen."""
        return psycopg.connect(self._primary.url(NAME), autocommit=True, connect_timeout=3, options=IMPATIENT)

    # --- what troubles do ---

    def set_clock(self, seconds: int) -> None:
        """Let the clock of both be wrong by some seconds."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.chmod(0o644)
        new.rename(self._clock)

    def revive(self) -> None:
        """Start the servers that have ended, as they do on a full disk, and replace a standby that does not start."""
        for server in self.places:
            with suppress(AssertionError):  # one that runs cannot be started
                server.start(*FAST)
        with self.connect() as connection:
            followers = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchall()[0][0]
        if not followers:
            self.rebuild()

    def restart(self) -> None:
        """End the primary as a crash does, and start it again."""
        self._primary.stop("immediate")
        self._primary.start(*FAST)

    def fall_behind(self) -> None:
        """Cut the standby off from the primary."""
        self._standby.fall_behind()

    def synchronize(self) -> bool:
        """Acknowledge commits only after the standby has them. Return whether this took effect."""
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            return bool(eventually(lambda: connection.execute(query).fetchall()[0][0], seconds=10))

    def fail_over(self) -> None:
        """End the primary as a crash does, and make the standby the primary."""
        self._primary.stop("immediate")
        self._standby.promote()
        self.primary = 1 - self.primary
        self.failovers += 1
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")

    def return_of_the_old(self) -> None:
        """Start the former primary as a primary, which accepts writes."""
        self._standby.start(*FAST)

    def rebuild(self) -> None:
        """Make a new standby in place of the former primary."""
        old = self._standby
        with suppress(AssertionError):  # it has been stopped already
            old.stop("immediate")
        old.unwatch()
        shutil.rmtree(old.data.parent)
        self.places[1 - self.primary] = self._server(self._primary)

    def backends(self) -> list[int]:
        """Return the processes of the primary that serve replicas."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'jobrun-exporter'"
        with self.connect() as connection:
            return [pid for (pid,) in connection.execute(query, (NAME,))]

    def postmaster(self) -> int:
        """Return the process of the primary that accepts connections."""
        return self._primary.pid()

    def end(self) -> None:
        """Stop both."""
        for server in self.places:
            with suppress(AssertionError, OSError, ValueError):
                os.kill(server.pid(), signal.SIGCONT)
                server.stop("immediate")
            server.unwatch()


class Pooler:
    """PgBouncer in transaction mode in front of the primary, wherever that is."""

    def __init__(self, folder: Path, database: Database, size: int) -> None:
        self.port = steady_port()
        self._entry = Wire(database.primary_port)
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n{NAME} = host={HOST} port={self._entry.port} user=jobrun\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {size}\nunix_socket_dir =\nserver_login_retry = 1\n"
            "server_connect_timeout = 3\nlog_connections = 0\nlog_disconnections = 0\n"
        )
        self._settings.chmod(0o644)
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        as_other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.Popen(  # noqa: S603  # its own command
            [require_tool("pgbouncer"), "--quiet", str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_other,  # type: ignore[call-overload]  # as `Popen` has them
        )

    def restart(self) -> None:
        """Kill it and start it again."""
        self.end()
        self._process = self._started()

    def switched(self) -> None:
        """Reset its connections: the primary has changed, and a load balancer in front would do so."""
        self._entry.cut()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and its way to the database."""
        self.end()
        self._entry.close()


def faked(clock: Path | str) -> dict[str, str]:
    """Return the environment of a process whose clock is as wrong as a text, or a file, says."""
    file = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"} if isinstance(clock, Path) else {}
    text = {"FAKETIME": clock} if isinstance(clock, str) else {}
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **file, **text}


@contextmanager
def database(*, moving_clock: bool) -> Iterator[tuple[Path, Database, bool]]:
    """A database in a folder that is deleted afterwards, and whether that is a file system that can be full."""
    if not postgres.NEWEST_FIRST:
        skip_or_fail("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="jobrun-replicas-"))
    disk = folder / "disk"
    disk.mkdir()
    small = runs_as_root() and mount("-t", "tmpfs", "-o", "size=700m,mode=755", "tmpfs", str(disk))
    for each in (folder, disk):
        each.chmod(0o755)
    try:
        made = Database(folder, moving_clock=moving_clock)
        try:
            yield folder, made, small
        finally:
            made.end()
    finally:
        if small:
            unmount(disk)
        shutil.rmtree(folder, ignore_errors=True)
