"""Bounds the open connections: a new one is always accepted, and closes the one that has been idle longest."""

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
"""Connections open at once, if the process may open enough files."""

FILES_PER_CONNECTION = 4
"""Files that the process may open per connection: the state and the APIs need some too."""

BACKLOG = 128
"""Connections that the kernel holds until they are accepted."""

BATCH = 32
"""Connections accepted in a row, before open ones are served again."""

PAUSE = 0.1
"""Seconds until the next try after the system had no resources for a new connection."""


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, where the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the soft limit stays, so fewer connections are allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit() -> int:
    """Return how many connections may be open at once under the present limit of open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, files // FILES_PER_CONNECTION))


class Connections:
    """The open connections of one event loop, at most `limit`, the one idle longest first."""

    def __init__(self, limit: int = MAX_CONNECTIONS) -> None:
        self._limit = limit
        self._open: dict[Accepted, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Accepted") -> None:
        """Add a new connection; if that is one too many, abort the one idle longest."""
        while len(self._open) >= self._limit:
            self.evict()
        self._open[connection] = None

    def touch(self, connection: "Accepted") -> None:
        """Mark a connection as used just now."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: "Accepted") -> None:
        """Remove a connection that is closed."""
        self._open.pop(connection, None)

    def evict(self) -> None:
        """Abort the connection that has been idle longest; a busy one only if all are."""
        idle = (connection for connection in self._open if not connection.busy)
        connection = next(idle, None) or next(iter(self._open), None)
        if connection is not None:
            del self._open[connection]
            connection.abort()


class Acceptor:
    """Accepts connections from a listening socket, without ever refusing one. Must be used by one event loop.

    Args:
        listener: A socket that is bound.
        make: Makes the protocol of a connection.
        connections: The open connections.
        tls: Makes connections use TLS.
        tls_timeout: Seconds that a client may take for the handshake of TLS, and for its end.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], "Accepted"],
        connections: Connections,
        *,
        tls: ssl.SSLContext | None,
        tls_timeout: float,
    ) -> None:
        self._listener = listener
        self._make = make
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
        """Accept no more connections, and abort handshakes in progress."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until handshakes in progress have ended."""
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
            protocol = self._make()
            protocol.opening = task = self._loop.create_task(self._open(protocol, accepted))
            self._opening.add(task)
            task.add_done_callback(functools.partial(self._opened, protocol, accepted))
            self._connections.add(protocol)

    def _pause(self, error: OSError) -> None:
        # the listener stays readable, so trying again at once would use a whole core
        self._log.warning("connection not accepted", error=error.strerror, logger=__name__)
        self._connections.evict()
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _open(self, protocol: "Accepted", accepted: socket.socket) -> None:
        # a handshake that fails is the client's problem, and clients must not fill the log
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls, **self._timeouts)

    def _opened(self, protocol: "Accepted", accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if protocol.transport is None:
            self._connections.remove(protocol)
            accepted.close()


class Accepted(asyncio.Protocol):
    """A connection that can be aborted before it has a transport, during the handshake of TLS."""

    transport: asyncio.Transport
    """None until the connection is made, as in uvicorn."""
    opening: asyncio.Task[None]
    """Makes the transport."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a request is being answered."""

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is None:
            self.opening.cancel()
        else:
            self.transport.abort()
