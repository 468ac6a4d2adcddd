"""Serves an ASGI application in a separate thread, with limits for connections and requests."""

import asyncio
import contextlib
import functools
import resource
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.web.address import Address
from exporter.web.application import ABORT

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than the usual scrape interval."""

HEAD_LIMIT = 64 * 1024
"""Maximum bytes of a request's line and headers. The chunk in which the request begins does not count."""

HEAD_TIMEOUT = 10.0
"""Seconds that a client may take for a request's line and headers, and for the TLS handshake."""

MAX_CONNECTIONS = 512
"""Maximum number of open connections. It is lower if the process may not open enough files."""

FILES_PER_CONNECTION = 4
"""Open files that the system must allow per connection. The state and the requests to APIs need files too."""

BACKLOG = 64
"""Maximum number of connections that wait to be accepted. asyncio accepts up to this many in a row."""


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


class ListenError(Exception):
    """The address cannot be bound."""


class Connections(dict["_Connection", None]):
    """Open connections, at most `limit`, the least recently used one first. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def add(self, connection: "_Connection") -> None:
        """Add a connection. At the limit, abort the one that has been idle longest; a busy one if none is idle."""
        while len(self) >= self._limit:
            aborted = next((each for each in self if not each.busy), None) or next(iter(self))
            del self[aborted]
            aborted.abort()
        self[connection] = None

    def touch(self, connection: "_Connection") -> None:
        """Move a connection that is in use to the end."""
        if connection in self:
            del self[connection]
            self[connection] = None


class _Connection(HttpToolsProtocol):
    """A connection of uvicorn that limits the size of a request's head (line and headers) and the wait for it."""

    # uvicorn limits bodies (64 KiB in memory) and closes idle connections, but accepts endless and slow heads. This
    # class uses private names of uvicorn, so pyproject.toml has an upper bound for its version.

    _head_size = 0
    """Bytes received after the chunk in which the request began, or after its body."""
    _early_data = b""
    """Data that arrived together with the end of the TLS handshake."""
    _deadline: asyncio.TimerHandle | None = None
    """Closes the connection if the head takes too long; None while no head is expected."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  # as in the base class
        connections: Connections,
        tls: Callable[[], ssl.SSLContext] | None,
        head_timeout: float,
        **more: Any,  # noqa: ANN401  # as above
    ) -> None:
        super().__init__(*args, **more)
        self._connections = connections
        self._tls = tls
        self._head_timeout = head_timeout

    @property
    def busy(self) -> bool:
        """Return whether a request is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def abort(self) -> None:
        """Close the connection at once."""
        self._socket_transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        # asyncio could do the TLS handshake before it calls this. But then nothing could abort the handshake.
        self._socket_transport = transport
        self._connections.add(self)
        if self._tls is None:
            self._begin(transport)
        else:
            self._handshake = self.loop.create_task(self._shake_hands(transport, self._tls()))

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        secured = None
        with contextlib.suppress(OSError):  # not logged, because clients must not fill the log
            secured = await self.loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._head_timeout,
                ssl_shutdown_timeout=self._head_timeout,
            )
        if secured is None:
            self._connections.pop(self, None)
            return
        self._begin(secured)
        if self._early_data:
            self.data_received(self._early_data)

    def _begin(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.pop(self, None)
        if self.transport is not None:
            super().connection_lost(exc)
            self._cancel_deadline()

    def on_message_begin(self) -> None:
        self._head_size = 0  # the start within the chunk is unknown; asyncio limits a chunk's size
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.abort}  # type: ignore[dict-item]  # our own extension

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._cancel_deadline()
        self._connections.touch(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._connections.touch(self)

    def on_body(self, body: bytes) -> None:
        self._head_size = 0
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            self._early_data += data
            return
        self._head_size += len(data)
        super().data_received(data)
        if self._head_size > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("Request head too large.")
        if not self.busy:
            self._expect_head()

    def _expect_head(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._head_timeout, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing, because clients must not fill the log. The upgrade to a web socket is ignored."""


class _Server(uvicorn.Server):
    """A server of uvicorn whose shutdown also aborts connections that do not end in time."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self._connections):
            if connection.transport is None:  # uvicorn would wait for the handshake
                connection.abort()
        await super().shutdown(sockets)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # the event loop closes them in its next iteration


class WebServer:
    """Serves an application from `start` until `stop`.

    Args:
        host: "" for all interfaces.
        port: 0 for any free port. After the start, the attribute `port` has the actual one.
        tls: Returns the TLS context of a new connection; None for plain HTTP.
        max_connections: None for `connection_limit()`.
    """

    def __init__(  # noqa: PLR0913  # the limits are arguments for tests
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext] | None = None,
        *,
        head_timeout: float = HEAD_TIMEOUT,
        max_connections: int | None = None,
    ) -> None:
        self.host = host
        self.port = port
        connections = Connections(max_connections or connection_limit())
        self._config = uvicorn.Config(
            app,
            loop="asyncio",
            http=functools.partial(_Connection, connections=connections, tls=tls, head_timeout=head_timeout),  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            backlog=BACKLOG,
        )
        self._server = _Server(self._config, connections)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind, then serve in the background. Raises ListenError if the address cannot be bound."""
        listener = _listener(self.host, self.port)
        # Without this option the end of a response is sent 40 ms late, after the client has acknowledged the start.
        # asyncio sets it only for sockets with an explicit protocol. Connections inherit it from the listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        # As a daemon thread, it does not keep the process alive if a client never reads.
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="web", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop. Responses in progress get at most `timeout` seconds."""
        if self._thread is None:
            return
        self._config.timeout_graceful_shutdown = timeout  # type: ignore[assignment]  # asyncio accepts floats
        self._server.should_exit = True
        self._thread.join(timeout + 1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(1)


def _listener(host: str, port: int) -> socket.socket:
    try:
        if host:
            family, *_, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            return socket.create_server(target[:2], family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ListenError(f"cannot listen on {Address(host, port)}: {error.strerror or error}") from error
