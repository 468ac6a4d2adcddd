"""Limits the number of open connections. At the limit, a new connection closes the one that has been idle longest."""

import asyncio
import contextlib
import functools
import resource
import socket
import ssl
from abc import abstractmethod
from collections.abc import Callable

import structlog

MAX_CONNECTIONS = 512
"""Maximum number of open connections. It is lower if the process may not open enough files."""

FILES_PER_CONNECTION = 4
"""Minimum number of allowed open files per connection. The state and the requests to APIs need files too."""

BACKLOG = 128
"""Maximum number of connections that the kernel holds until they are accepted."""

BATCH = 32
"""Maximum number of connections that are accepted before open ones are served again."""

PAUSE = 0.1
"""Seconds without new connections after the system had no resources for one."""


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit, if the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # if it stays low, fewer connections are allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit() -> int:
    """Return the maximum number of open connections under the current limit of open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, files // FILES_PER_CONNECTION))


class Connections(dict["ClientConnection", None]):
    """Open connections, at most `limit`. The first one has been idle longest. Not thread-safe."""

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        super().__init__()
        self._limit = limit

    def add(self, connection: "ClientConnection") -> None:
        """Add a connection. At the limit, first abort the one that has been idle longest."""
        while len(self) >= self._limit:
            self.evict()
        self[connection] = None

    def touch(self, connection: "ClientConnection") -> None:
        """Move a connection that is in use to the end."""
        if connection in self:
            del self[connection]
            self[connection] = None

    def evict(self) -> None:
        """Abort the connection that has been idle longest. If all are busy, abort the first."""
        idle = (connection for connection in self if not connection.busy)
        connection = next(idle, None) or next(iter(self), None)
        if connection is not None:
            del self[connection]
            connection.abort()


class Acceptor:
    """Accepts the connections of a listening socket. Not thread-safe.

    Args:
        listener: A bound socket.
        new_connection: Returns a new connection.
        tls: The TLS context; None for plain connections.
        tls_timeout: Seconds that a client may take for the TLS handshake, and for the shutdown of TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        new_connection: Callable[[], "ClientConnection"],
        connections: Connections,
        *,
        tls: ssl.SSLContext | None,
        tls_timeout: float,
    ) -> None:
        self._listener = listener
        self._new_connection = new_connection
        self._connections = connections
        self._tls = tls
        names = () if tls is None else ("ssl_handshake_timeout", "ssl_shutdown_timeout")
        self._timeouts = dict.fromkeys(names, tls_timeout)
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._log = structlog.get_logger()
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more connections, and cancel handshakes in progress."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the canceled handshakes have ended."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            connection = self._new_connection()
            connection.opening = task = self._loop.create_task(self._connect(connection, accepted))
            self._opening.add(task)
            task.add_done_callback(functools.partial(self._connected, connection, accepted))
            self._connections.add(connection)

    def _pause(self, error: OSError) -> None:
        # The listener stays readable, so a retry without a pause would use a whole core.
        self._log.warning("connection not accepted", error=error.strerror, logger=__name__)
        self._connections.evict()
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _connect(self, connection: "ClientConnection", accepted: socket.socket) -> None:
        # A failed handshake is not logged, because clients must not fill the log.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=self._tls, **self._timeouts)

    def _connected(self, connection: "ClientConnection", accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if connection.transport is None:
            self._connections.pop(connection, None)
            accepted.close()


class ClientConnection(asyncio.Protocol):
    """A connection that can be aborted, also during the TLS handshake, when it has no transport yet."""

    transport: asyncio.Transport
    """None before the connection is made, as in uvicorn."""
    opening: asyncio.Task[None]
    """The task that creates the transport."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Return whether a request is in progress."""

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is None:
            self.opening.cancel()
        else:
            self.transport.abort()
