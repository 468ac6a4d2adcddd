"""Runs an ASGI application on a thread of its own."""

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

from exporter.web.application import ABORT
from exporter.web.connections import MOST_CONNECTIONS, Accepted, Acceptor, Connections

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept, longer than the usual interval between two scrapes."""


HEAD_LIMIT = 64 * 1024
"""Bytes of one request's line and headers, besides those that came in one piece with its beginning."""


HEAD_PATIENCE = 10.0
"""Seconds that a client may take for one request's line and headers."""


class ListenError(Exception):
    """The address cannot be listened on."""


class _Protocol(HttpToolsProtocol, Accepted):
    """uvicorn's HTTP, which by itself would keep headers without end, and wait for them without end.

    Bodies it keeps only to 64 KiB at a time, and idle connections for KEEP_ALIVE.
    """

    _head = 0
    """Bytes that are no body since the data in which the request began."""
    _began = False
    _body = 0
    _deadline: asyncio.TimerHandle | None = None
    """When to end the connection; None while no head is awaited."""

    def __init__(self, *args: Any, patience: float, open_now: Connections, **more: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*args, **more)
        self._patience = patience
        self._open_now = open_now

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expect_nothing()
        self._open_now.remove(self)

    def on_message_begin(self) -> None:
        self._began = True
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]  # ours, so unknown to uvicorn

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._expect_nothing()
        self._open_now.touch(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._open_now.touch(self)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._began, self._body = False, 0
        super().data_received(data)
        # where in its data a request began is not told; one piece of data is bounded by itself
        self._head = 0 if self._began else self._head + len(data) - self._body
        if self._head > HEAD_LIMIT and not self.transport.is_closing():
            self.send_400_response("Request head too large.")
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def _expect_head(self) -> None:
        """From now on, if not already, the rest of a head must come soon."""
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._patience, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: whoever asks for a web socket gets the page, and the log no advice on how to have them."""


class _Server(uvicorn.Server):
    """uvicorn's server with an acceptor of ours, which at its end also cuts off clients that do not read."""

    def __init__(self, config: uvicorn.Config, open_now: Connections, patience: float) -> None:
        super().__init__(config)
        self._open_now = open_now
        self._patience = patience

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        def make() -> Accepted:
            protocol: Accepted = self.config.http_protocol_class(  # type: ignore[assignment, call-arg]  # `_Protocol`
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        tls, patience = self.config.ssl, self._patience
        self.servers = [
            Acceptor(listener, make, self._open_now, tls=tls, patience=patience)  # type: ignore[misc]  # closed alike
            for listener in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # aborted connections are closed in the loop's next turn


class WebServer:
    """A server that listens from `start` until `stop`.

    `host` "" means all interfaces. `port` 0 takes a free one, known after `start`. `tls` makes it speak HTTPS.
    `patience`: seconds that a client may take for one request's line and headers, and for the handshake of TLS.
    `most`: connections that may be open at once; for a further one, that which has been idle longest is ended.
    """

    def __init__(  # noqa: PLR0913  # the limits are arguments for tests
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        patience: float = HEAD_PATIENCE,
        most: int = MOST_CONNECTIONS,
    ) -> None:
        self.host = host
        self.port = port
        open_now = Connections(most)
        self._config = uvicorn.Config(
            app,
            loop="asyncio",
            http=functools.partial(_Protocol, patience=patience, open_now=open_now),  # type: ignore[arg-type]  # it is only called
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._tls = tls
        self._server = _Server(self._config, open_now, patience)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Binds, then serves in the background. Raises ListenError if the address is taken or not ours."""
        listener = _listener(self.host, self.port)
        # Or the end of an answer waits 40 ms for the client to confirm its beginning. asyncio does this itself only for
        # sockets that name their protocol; connections have it from their listener.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._config.load()
        self._config.ssl = self._tls
        # a daemon thread: a client that never reads must not keep the process from ending
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="web", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Takes no more connections, lets answers under way finish for at most this many seconds, and ends."""
        if self._thread is None:
            return
        self._config.timeout_graceful_shutdown = timeout  # type: ignore[assignment] # handed to asyncio, which takes any number
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
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            return socket.create_server(address[:2], family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
