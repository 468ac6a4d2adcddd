"""Runs a replica in the daemon: its connections, leases and threads."""

import secrets
import socket
import threading
from collections.abc import Callable

from exporter.ledger.ledger import Ledger
from exporter.metrics.zero_first import ZeroFirst
from exporter.queries.shared_reader import SharedReader
from exporter.replica import INTERVAL, Handlers, Replica
from exporter.state.connections import Pool
from exporter.state.leases import Leases
from exporter.state.opening import OpenedState
from exporter.state.postgres import open_shared


class Shared:
    """A state in PostgreSQL that replicas share.

    Args:
        url: URL of the database.
        boottime: A clock that also counts while the machine is suspended, in seconds.
        read_url: Reads the URL again before each connection; None if it never changes.
    """

    def __init__(
        self, url: str, boottime: Callable[[], float], read_url: Callable[[], str | None] | None = None
    ) -> None:
        self._pool = Pool(url, read_url)
        self.is_at = self._pool.is_at
        self._boottime = boottime
        self._leases = Leases(self._pool, f"{socket.gethostname()}-{secrets.token_hex(4)}", boottime)
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.reader = SharedReader(self._pool)
        self.replica: Replica

    def open(self) -> OpenedState:
        """Open the state."""
        return open_shared(self._pool, self._leases)

    def join(self, ledger: Ledger, zero_first: ZeroFirst, handlers: Handlers) -> Replica:
        """Create the replica. It does nothing before `start`."""
        self.replica = Replica(ledger, self._leases, zero_first=zero_first, boottime=self._boottime, handlers=handlers)
        return self.replica

    def start(self, guarded: Callable[[Callable[[], None]], None]) -> None:
        """Start the threads that run the replica and renew its leases. `guarded` runs a task and catches its errors."""
        for name, task in (("replica", self.replica.tick), ("leases", self.replica.renew)):
            self._threads.append(threading.Thread(target=self._repeat, args=(guarded, task), name=name, daemon=True))
            self._threads[-1].start()

    def _repeat(self, guarded: Callable[[Callable[[], None]], None], task: Callable[[], None]) -> None:
        while not self._ended.wait(INTERVAL):
            guarded(task)

    def stop(self, grace: float) -> None:
        """Stop the threads, so that no more leases are taken."""
        self._ended.set()
        for thread in self._threads:
            thread.join(grace)
