"""A listening socket and its connections: from bytes to a simulator's response and back."""

import logging
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from exporter.simulators.injector import Injector
from exporter.simulators.message import Request, Response, Route
from exporter.simulators.request_log import RequestLog

logger = logging.getLogger(__name__)


class Api(Protocol):
    """The part of a simulator that a listener uses."""

    clock: Callable[[], float]
    disruptions: Injector
    log: RequestLog

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints."""

    def controls(self) -> Sequence[Route]:
        """Return the control API."""

    def error(self, status: int, message: str) -> Response:
        """Return an error in the vendor's shape."""

    def answer(self, request: Request, route: Route | None) -> Response:
        """Return the response to a request, refusals included."""


class Listener(ThreadingHTTPServer):
    """The listening socket, its open connections, and the route table, built once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulator: Api) -> None:
        self.simulator = simulator
        self.stopping = threading.Event()
        self.vendor_routes = tuple(simulator.routes())
        self.control_routes = tuple(simulator.controls())
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Connection)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # sockets only
        """Keep a connection while it is open, so that `stop` can close it."""
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # sockets only
        """Remove a connection that ends."""
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening, then end every connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._guard:
            connections = tuple(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(BaseHTTPRequestHandler):
    """One connection; also the `Wire` that disruptions use."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Handle requests until one side closes the connection. A client may disconnect at any time."""
        with suppress(ConnectionError):
            super().handle()

    def handle_one_request(self) -> None:
        """Read a request of any method and answer it."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._respond()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        """Log a malformed request."""
        logger.debug(format, *args)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)

    def pause(self, seconds: float | None) -> bool:
        return not self._listener.stopping.wait(seconds)

    def close(self, *, abruptly: bool = False) -> None:
        self.close_connection = True
        if abruptly:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    @property
    def _listener(self) -> Listener:
        return cast("Listener", self.server)

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        simulator = self._listener.simulator
        vendor = not parts.path.startswith("/-/")
        route, request = self._routed(parts.path, parts.query, vendor=vendor)
        answer_disruption = simulator.disruptions.answer_disruption(request) if vendor else None
        delivery_disruption = simulator.disruptions.delivery_disruption(request) if vendor else None
        if answer_disruption is None:
            response = simulator.answer(request, route)
        else:
            error = simulator.error(answer_disruption.error_status, "injected disruption")
            response = answer_disruption.answer(error, simulator.clock())
        if vendor:
            simulator.log.add(request, parts.query, response.status if delivery_disruption is None else 0)
        head = self._head(response)
        if delivery_disruption is None:
            self.send(head + response.body)
        else:
            delivery_disruption.deliver(self, head, response.body)

    def _routed(self, path: str, query: str, *, vendor: bool) -> tuple[Route | None, Request]:
        segments = path.split("/")
        route, parameters = None, {}
        for candidate in self._listener.vendor_routes if vendor else self._listener.control_routes:
            matched = candidate.match(self.command, segments)
            if matched is not None:
                route, parameters = candidate, matched
                break
        request = Request(
            method=self.command,
            path=path,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            endpoint="" if route is None else route.endpoint,
            template="" if route is None else route.template,
            parameters=parameters,
            received=self._listener.simulator.clock(),
        )
        return route, request

    def _head(self, response: Response) -> bytes:
        headers = {
            "Date": formatdate(self._listener.simulator.clock(), usegmt=True),
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **response.headers,
        }
        reason = HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
