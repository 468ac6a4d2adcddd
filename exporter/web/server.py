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
from exporter.web.connections import Accepted, Acceptor, Connections, connection_limit

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than the usual scrape interval."""

HEAD_LIMIT = 64 * 1024
"""Maximum bytes of a request's line and headers. The first data received of a request does not count."""

HEAD_TIMEOUT = 10.0
"""Seconds that a client may take for a request's line and headers, and for the TLS handshake."""


class ListenError(Exception):
    """The address cannot be bound."""


class _Protocol(HttpToolsProtocol, Accepted):
    """uvicorn's HTTP, with limits on the size and the duration of a request's head (line and headers)."""

    # uvicorn limits bodies (64 KiB in memory) and idle connections, but neither the size of headers nor the wait for
    # them. The methods below are its private interface, so pyproject.toml caps its version.

    _head = 0
    """Bytes received after the data in which the request began, without those of bodies."""
    _began = False
    _body = 0
    _deadline: asyncio.TimerHandle | None = None
    """When to close the connection; None while no head is expected."""

    def __init__(self, *args: Any, head_timeout: float, connections: Connections, **more: Any) -> None:  # noqa: ANN401  # uvicorn's own
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
        self._body += len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._began, self._body = False, 0
        super().data_received(data)
        # httptools does not say where in the data a request began. The size of this data is limited anyway.
        self._head = 0 if self._began else self._head + len(data) - self._body
        if self._head > HEAD_LIMIT and not self.transport.is_closing():
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
        """Log nothing: clients must not fill the log. A request for a web socket gets the page."""


class _Server(uvicorn.Server):
    """uvicorn's server with our own acceptor. Its shutdown also aborts connections of clients that do not read."""

    def __init__(self, config: uvicorn.Config, connections: Connections, tls_timeout: float) -> None:
        super().__init__(config)
        self._connections = connections
        self._tls_timeout = tls_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def make() -> Accepted:
            protocol: Accepted = self.config.http_protocol_class(  # type: ignore[assignment, call-arg]  # `_Protocol`
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        self.servers = [
            Acceptor(listener, make, self._connections, tls=self.config.ssl, tls_timeout=self._tls_timeout)  # type: ignore[misc]  # closed alike
            for listener in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # the loop closes them in its next turn


class WebServer:
    """A server that listens from `start` until `stop`.

    Args:
        host: Host to listen on; "" for all interfaces.
        port: Port to listen on; 0 for any free port, which `port` has after the start.
        tls: The TLS context; None for plain HTTP.
        head_timeout: Seconds that a client may take for a request's line and headers, and for the TLS handshake.
        max_connections: Maximum number of open connections. A further one replaces the one idle longest.
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
            http=functools.partial(_Protocol, head_timeout=head_timeout, connections=connections),  # type: ignore[arg-type]  # it is only called
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
        # Without this option the end of a response waits 40 ms until the client confirms its start. asyncio sets it
        # only for sockets with an explicit protocol. Connections inherit it from the listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._config.load()
        self._config.ssl = self._tls
        # A daemon thread, because a client that never reads must not keep the process alive.
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="web", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Accept no more connections, wait at most `timeout` seconds for responses in progress, and stop."""
        if self._thread is None:
            return
        self._config.timeout_graceful_shutdown = timeout  # type: ignore[assignment]  # handed to asyncio, which takes any number
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
