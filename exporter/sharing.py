"""Runs a replica in the daemon: its connections, leases and thread."""

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
        url: Address of the database.
        boottime: A clock that also counts while the machine is suspended, in seconds.
    """

    def __init__(self, url: str, boottime: Callable[[], float]) -> None:
        self._pool = Pool(url)
        self._boottime = boottime
        self._leases = Leases(self._pool, f"{socket.gethostname()}-{secrets.token_hex(4)}", boottime)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.reader = SharedReader(self._pool)
        self.replica: Replica

    def open(self) -> OpenedState:
        """Open the state."""
        return open_shared(self._pool, self._leases)

    def join(self, ledger: Ledger, zero_first: ZeroFirst, handlers: Handlers) -> Replica:
        """Create the replica, which does nothing before `start`."""
        self.replica = Replica(ledger, self._leases, zero_first=zero_first, boottime=self._boottime, handlers=handlers)
        return self.replica

    def start(self, guarded: Callable[[Callable[[], None]], None]) -> None:
        """Start the thread that runs the replica twice per second. `guarded` catches errors of its tasks."""

        def look() -> None:
            while not self._ended.wait(INTERVAL):
                guarded(self.replica.tick)

        self._thread = threading.Thread(target=look, name="replica", daemon=True)
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Stop the thread, so that no more leases are taken."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(grace)
