"""How many connections are open at once: a new one always gets in, and the one idle longest makes room for it."""

import asyncio
import contextlib
import functools
import resource
import socket
import ssl
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import structlog

MOST_CONNECTIONS = 512
"""Connections open at once, where the process may open enough files."""

PART_OF_FILES = 4
"""One of this many files that the process may open is a connection at most: the state and the APIs need some too."""

BACKLOG = 128
"""Connections that the kernel keeps until they are accepted."""

BATCH = 32
"""Connections accepted before those that are open get their turn."""

PAUSE = 0.1
"""Seconds until the next try after the system had no resources for a connection."""


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, where the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # then the soft limit stays, and fewer connections are allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit() -> int:
    """Return how many connections may be open at once under the present limit of open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(8, min(MOST_CONNECTIONS, files // PART_OF_FILES))


class Connection(Protocol):
    """What is asked of an accepted connection."""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""

    def abort(self) -> None:
        """End it at once."""


class Connections:
    """The open connections of one event loop, the one idle longest first.

    Args:
        most: How many may be open at once.
    """

    def __init__(self, most: int = MOST_CONNECTIONS) -> None:
        self._most = most
        self._open: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Take a new connection; where that is one too many, the one idle longest is aborted."""
        while len(self._open) >= self._most:
            self.evict()
        self._open[connection] = None

    def touch(self, connection: Connection) -> None:
        """Note that a request of a connection was read or answered."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)

    def evict(self) -> None:
        """Abort the connection that has been idle longest; one that is being answered only if all are."""
        idle = (connection for connection in self._open if not connection.busy)
        connection = next(idle, None) or next(iter(self._open), None)
        if connection is not None:
            del self._open[connection]
            connection.abort()


class Acceptor:
    """Accepts connections from a listening socket, without ever refusing one. To be used by one event loop.

    Args:
        listener: A socket that listens already.
        make: Makes the protocol of a connection.
        connections: Those that are open.
        tls: Makes connections speak TLS.
        patience: Seconds that a client may take for the handshake of TLS, and for its end.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], "Accepted"],
        connections: Connections,
        *,
        tls: ssl.SSLContext | None,
        patience: float,
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._tls = tls
        self._timeouts = {} if tls is None else {"ssl_handshake_timeout": patience, "ssl_shutdown_timeout": patience}
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False
        self._log = structlog.get_logger()
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept nothing more, and abort handshakes in progress."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once handshakes in progress have ended."""
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
        """Make room and try again soon: the listener stays readable, so trying at once would take the whole core."""
        self._log.warning("connection could not be accepted", error=error.strerror, logger=__name__)
        self._connections.evict()
        self._loop.remove_reader(self._listener)
        self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    async def _open(self, protocol: "Accepted", accepted: socket.socket) -> None:
        # no TLS, none that is allowed, or none in time: the client's business, so no line in the log
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls, **self._timeouts)

    def _opened(self, protocol: "Accepted", accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if protocol.transport is None:
            self._connections.remove(protocol)
            accepted.close()


class Accepted(asyncio.Protocol):
    """A connection that can be aborted before it has a transport, while TLS is being negotiated."""

    transport: asyncio.Transport
    """None until the connection is made, as uvicorn has it."""
    opening: asyncio.Task[None]
    """Makes the transport."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether a request is being answered."""

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is None:
            self.opening.cancel()
        else:
            self.transport.abort()
