"""Serves an ASGI application in a separate thread."""

import asyncio
import functools
import socket
import ssl
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.web.address import Address
from exporter.web.application import ABORT
from exporter.web.connections import Acceptor, ClientConnection, Connections, connection_limit

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than the usual scrape interval."""

HEAD_LIMIT = 64 * 1024
"""Maximum bytes of a request's line and headers, not counting the first chunk received."""

HEAD_TIMEOUT = 10.0
"""Seconds that a client may take for a request's line and headers, and for the TLS handshake."""


class ListenError(Exception):
    """The address cannot be bound."""


class _Protocol(HttpToolsProtocol, ClientConnection):
    """A connection of uvicorn that limits the size of a request's head (line and headers) and the wait for it."""

    # uvicorn limits bodies (64 KiB in memory) and closes idle connections, but accepts endless and slow heads. It has
    # no public interface for this, so pyproject.toml has an upper bound for its version.

    _head_size = 0
    """Bytes of the head after its first chunk."""
    _began = False
    """Whether a request began in the latest chunk."""
    _body_size = 0
    """Bytes of the body in the latest chunk."""
    _deadline: asyncio.TimerHandle | None = None
    """Closes the connection if the head takes too long; None while no head is expected."""

    def __init__(self, *args: Any, head_timeout: float, connections: Connections, **more: Any) -> None:  # noqa: ANN401  # those of the base class
        super().__init__(*args, **more)
        self._head_timeout = head_timeout
        self._connections = connections

    @property
    def busy(self) -> bool:
        """Return whether a request is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_deadline()
        self._connections.pop(self, None)

    def on_message_begin(self) -> None:
        self._began = True
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # our own extension

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._cancel_deadline()
        self._connections.touch(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._connections.touch(self)

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._began, self._body_size = False, 0
        super().data_received(data)
        # The first chunk is not counted: httptools does not report where in it the request began. asyncio limits it.
        self._head_size = 0 if self._began else self._head_size + len(data) - self._body_size
        if self._head_size > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("Request head too large.")
        if self.cycle is None or self.cycle.response_complete:
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
    """A server of uvicorn that limits its connections. Its shutdown also aborts connections that do not end in time."""

    def __init__(self, config: uvicorn.Config, connections: Connections, tls_timeout: float) -> None:
        super().__init__(config)
        self._connections = connections
        self._tls_timeout = tls_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def new_connection() -> ClientConnection:
            connection: ClientConnection = self.config.http_protocol_class(  # type: ignore[assignment, call-arg]  # `_Protocol`
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return connection

        self.servers = [
            Acceptor(listener, new_connection, self._connections, tls=self.config.ssl, tls_timeout=self._tls_timeout)  # type: ignore[misc]  # both have `close`
            for listener in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # the event loop closes them in its next iteration


class WebServer:
    """Serves an application from `start` until `stop`.

    Args:
        app: The application.
        host: Host to listen on; "" for all interfaces.
        port: Port to listen on; 0 for any free port. After the start, the attribute `port` has the actual one.
        tls: The TLS context; None for plain HTTP.
        head_timeout: See HEAD_TIMEOUT.
        max_connections: Maximum number of open connections; None for `connection_limit()`.
    """

    def __init__(  # noqa: PLR0913  # the limits are arguments for tests
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
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
            http=functools.partial(_Protocol, head_timeout=head_timeout, connections=connections),  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._tls = tls
        self._server = _Server(self._config, connections, head_timeout)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind, then serve in the background. Raises ListenError if the address cannot be bound."""
        listener = _listener(self.host, self.port)
        # Without this option the end of a response is sent 40 ms late, after the client has acknowledged the start.
        # asyncio sets it only for sockets with an explicit protocol. Connections inherit it from the listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._config.load()
        self._config.ssl = self._tls
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
