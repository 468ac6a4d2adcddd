"""The database of replicas: a primary, a standby, and PgBouncer. Disruptions act on them."""

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
from tests.chaos.replicas.database_proxy import DatabaseProxy, unassigned_port
from tests.e2e.processes import HOST, eventually, mount, require_tool, runs_as_root, skip_or_fail, unmount

NAME = "jobrun"

SHORT_TIMEOUTS = "-c statement_timeout=10s -c lock_timeout=5s"

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
"""The library that gives processes a wrong clock; None if it is not installed."""

FAST = ("fsync=off", "wal_keep_size=64MB", "max_wal_senders=4", "max_connections=100")
"""Settings without writes to the disk: only processes are killed, never the machine."""


class Database:
    """Two servers. One of them is the primary, and the other one its standby.

    Args:
        folder: Folder for their data.
        moving_clock: Whether `set_clock` moves their clocks.

    Attributes:
        servers: Both, in the order in which a URL names them.
        primary: Index of the primary.
        failovers: Number of failovers so far.
    """

    def __init__(self, folder: Path, *, moving_clock: bool = False) -> None:
        self.disk = folder / "disk"
        self._clock = folder / "clock"
        self._environ = fake_clock(self._clock) if moving_clock else {}
        self.set_clock(0)
        self._number = 0
        self.servers = [self._server(None)]
        self.primary = 0
        with self._primary.connect() as connection:
            connection.execute(f"CREATE DATABASE {NAME}")
        self.servers.append(self._server(self._primary))
        self.failovers = 0

    @property
    def _primary(self) -> postgres.Server:
        return self.servers[self.primary]

    @property
    def _standby(self) -> postgres.Server:
        return self.servers[1 - self.primary]

    def _server(self, source: postgres.Server | None) -> postgres.Server:
        self._number += 1
        folder = self.disk / str(self._number)
        folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        server = postgres.Server(folder, postgres.NEWEST_FIRST[0], source)
        server.environ, server.port = self._environ, unassigned_port()
        server.start(*FAST)
        return server

    def port(self, index: int) -> int:
        """Return the port of a server."""
        return self.servers[index].port

    def primary_port(self) -> int:
        """Return the port of the primary."""
        return self._primary.port

    def connect(self) -> psycopg.Connection:
        """Connect to the primary without a proxy. Timeouts are short, because the primary may be frozen."""
        return psycopg.connect(self._primary.url(NAME), autocommit=True, connect_timeout=3, options=SHORT_TIMEOUTS)

    # --- for disruptions ---

    def set_clock(self, seconds: int) -> None:
        """Make the clocks of both servers wrong by some seconds."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.chmod(0o644)
        new.rename(self._clock)

    def revive(self) -> None:
        """Start the servers that have stopped, for example on a full disk. Replace a standby that does not start."""
        for server in self.servers:
            with suppress(AssertionError):  # one that runs cannot be started
                server.start(*FAST)
        with self.connect() as connection:
            followers = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchall()[0][0]
        if not followers:
            self.rebuild()

    def restart(self) -> None:
        """Stop the primary as a crash does, and start it again."""
        self._primary.stop("immediate")
        self._primary.start(*FAST)

    def fall_behind(self) -> None:
        """Cut the standby off from the primary."""
        self._standby.fall_behind()

    def synchronize(self) -> bool:
        """Let commits wait until the standby has them. Return whether that works."""
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            return bool(eventually(lambda: connection.execute(query).fetchall()[0][0], seconds=10))

    def fail_over(self) -> None:
        """Stop the primary as a crash does, and promote the standby."""
        self._primary.stop("immediate")
        self._standby.promote()
        self.primary = 1 - self.primary
        self.failovers += 1
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")

    def start_old_primary(self) -> None:
        """Start the former primary again. It still accepts writes."""
        self._standby.start(*FAST)

    def rebuild(self) -> None:
        """Replace the former primary by a new standby."""
        old = self._standby
        with suppress(AssertionError):  # it has been stopped already
            old.stop("immediate")
        old.unwatch()
        shutil.rmtree(old.data.parent)
        self.servers[1 - self.primary] = self._server(self._primary)

    def backends(self) -> list[int]:
        """Return the IDs of the processes that serve replicas on the primary."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'jobrun-exporter'"
        with self.connect() as connection:
            return [pid for (pid,) in connection.execute(query, (NAME,))]

    def postmaster(self) -> int:
        """Return the ID of the process that accepts connections on the primary."""
        return self._primary.pid()

    def end(self) -> None:
        """Stop both servers."""
        for server in self.servers:
            with suppress(AssertionError, OSError, ValueError):
                os.kill(server.pid(), signal.SIGCONT)
                server.stop("immediate")
            server.unwatch()


class Pooler:
    """PgBouncer in transaction mode. It always connects to the server that is the primary."""

    def __init__(self, folder: Path, database: Database, size: int) -> None:
        self.port = unassigned_port()
        self._proxy = DatabaseProxy(database.primary_port)
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n{NAME} = host={HOST} port={self._proxy.port} user=jobrun\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {size}\nunix_socket_dir =\nserver_login_retry = 1\n"
            "server_connect_timeout = 3\nlog_connections = 0\nlog_disconnections = 0\n"
        )
        self._settings.chmod(0o644)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        as_other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.Popen(  # noqa: S603  # its own command
            [require_tool("pgbouncer"), "--quiet", str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_other,  # type: ignore[call-overload]  # as `Popen` has them
        )

    def restart(self) -> None:
        """Kill PgBouncer and start it again."""
        self.end()
        self._process = self._start()

    def reset_connections(self) -> None:
        """Reset the connections to the database, as a load balancer does after a failover."""
        self._proxy.cut()

    def end(self) -> None:
        """Kill PgBouncer."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill PgBouncer, and close its proxy."""
        self.end()
        self._proxy.close()


def fake_clock(clock: Path | str) -> dict[str, str]:
    """Return the environment of a process with a wrong clock. `clock`: the error as text, or a file that has it."""
    file = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"} if isinstance(clock, Path) else {}
    text = {"FAKETIME": clock} if isinstance(clock, str) else {}
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **file, **text}


@contextmanager
def running_database(*, moving_clock: bool) -> Iterator[tuple[Path, Database, bool]]:
    """Run a database. Yield its folder, the database, and whether its disk can be filled."""
    if not postgres.NEWEST_FIRST:
        skip_or_fail("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="jobrun-replicas-"))
    disk = folder / "disk"
    disk.mkdir()
    small = runs_as_root() and mount("-t", "tmpfs", "-o", "size=700m,mode=755", "tmpfs", str(disk))
    for each in (folder, disk):
        each.chmod(0o755)
    try:
        database = Database(folder, moving_clock=moving_clock)
        try:
            yield folder, database, small
        finally:
            database.end()
    finally:
        if small:
            unmount(disk)
        shutil.rmtree(folder, ignore_errors=True)
