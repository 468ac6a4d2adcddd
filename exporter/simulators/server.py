"""A simulated vendor over real HTTP: what all of them share."""

import logging
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Self, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec

from exporter.simulators.control import control_routes
from exporter.simulators.injector import Injector
from exporter.simulators.message import Refused, Request, Response, Route, json_response
from exporter.simulators.sight import Sight
from exporter.simulators.world import World

LOG_LENGTH = 10_000
logger = logging.getLogger(__name__)


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log of requests. `status` 0: no answer was sent."""

    time: float
    method: str
    path: str
    query: str
    endpoint: str
    status: int


class Simulator:
    """A vendor's API on loopback: a subclass gives `routes` and the shape of errors.

    Use it as a context manager, or `start` and `stop` it; after a stop it can start again on the same port.
    Attributes: `world` (what truly happens), `clock`, `faults` (the injector), `url`.
    """

    vendor: ClassVar[str] = ""

    def __init__(
        self,
        world: World,
        clock: Callable[[], float] = time.time,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
    ) -> None:
        self.world = world
        self.clock = clock
        self.faults = Injector(seed, clock)
        self._host, self._port = host, port
        self._log: deque[Received] = deque(maxlen=LOG_LENGTH)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @classmethod
    def demo(
        cls,
        clock: Callable[[], float] = time.time,
        *,
        speed: float = 1.0,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> Self:
        """A simulator of the demo's world, not yet started."""
        raise NotImplementedError

    def routes(self) -> Sequence[Route]:
        """The vendor's endpoints."""
        raise NotImplementedError

    def controls(self) -> Sequence[Route]:
        """The vendor's own additions to the control API, under `/-/`."""
        return ()

    def error(self, status: int, message: str) -> Response:
        """An error in the vendor's shape."""
        return json_response({"message": message}, status)

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # a hook for subclasses
        """Called before each of the vendor's handlers: headers for every answer, or `Refused` (rate limits)."""
        return {}

    def source_config(self, name: str) -> dict[str, object]:
        """The block under `sources:` with which the exporter reads this simulator."""
        raise NotImplementedError

    def sight(self, request: Request) -> Sight:
        """What this answer shows of the world, lies included. To be called once for an answer."""
        lies = self.faults.lies(request)
        return Sight(self.clock(), lies, self.faults.random() if lies else None)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Listens; returns once requests are answered."""
        self._server = _Server((self._host, self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends all connections, hanging ones too; later requests find nobody listening."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def received(self, endpoint: str | None = None) -> list[Received]:
        """The latest requests, oldest first; of one endpoint if named. The control API's are not among them."""
        with self._lock:
            return [line for line in self._log if endpoint in (None, line.endpoint)]

    def counts(self) -> dict[tuple[str, int], int]:
        """How many requests there were, by endpoint and status."""
        with self._lock:
            return dict(self._counts)

    def forget_requests(self) -> None:
        """Empties log and counts."""
        with self._lock:
            self._log.clear()
            self._counts.clear()

    def note(self, request: Request, query: str, status: int) -> None:
        """Writes a request into the log."""
        line = Received(
            time=request.received,
            method=request.method,
            path=request.path,
            query=query,
            endpoint=request.endpoint,
            status=status,
        )
        with self._lock:
            self._log.append(line)
            self._counts[line.endpoint, status] += 1

    def answer(self, request: Request, route: Route | None) -> Response:
        """The answer to a request, refusals included."""
        headers: Mapping[str, str] = {}
        if route is None:
            return self.error(404, "no such path")
        try:
            if not route.template.startswith("/-/"):
                headers = self.admit(request)
            return route.handler(request).with_headers(headers)
        except Refused as refusal:
            return self.error(refusal.status, refusal.message).with_headers({**headers, **refusal.headers})


class _Server(ThreadingHTTPServer):
    """The listening socket, its open connections, and the route table, built once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        self.stopping = threading.Event()
        self.vendor_routes = tuple(simulator.routes())
        self.control_routes = (*control_routes(simulator), *simulator.controls())
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # sockets only
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # sockets only
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._guard:
            connections = tuple(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection; also the `Wire` on which faults act."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Requests until either side has enough; a client that goes away is nothing special."""
        with suppress(ConnectionError):
            super().handle()

    def handle_one_request(self) -> None:
        """Reads a request of any method and answers it."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._respond()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        """Only what the base class finds malformed is logged."""
        logger.debug(format, *args)

    def send(self, data: bytes) -> None:
        self.wfile.write(data)

    def pause(self, seconds: float | None) -> bool:
        return not self._server.stopping.wait(seconds)

    def close(self, *, abruptly: bool = False) -> None:
        self.close_connection = True
        if abruptly:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    @property
    def _server(self) -> _Server:
        return cast("_Server", self.server)

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        simulator = self._server.simulator
        vendor = not parts.path.startswith("/-/")
        route, request = self._routed(parts.path, parts.query, vendor=vendor)
        answer_fault = simulator.faults.answer_fault(request) if vendor else None
        delivery_fault = simulator.faults.delivery_fault(request) if vendor else None
        if answer_fault is None:
            response = simulator.answer(request, route)
        else:
            error = simulator.error(answer_fault.error_status, "injected fault")
            response = answer_fault.answer(error, simulator.clock())
        if vendor:
            simulator.note(request, parts.query, response.status if delivery_fault is None else 0)
        head = self._head(response)
        if delivery_fault is None:
            self.send(head + response.body)
        else:
            delivery_fault.deliver(self, head, response.body)

    def _routed(self, path: str, query: str, *, vendor: bool) -> tuple[Route | None, Request]:
        segments = path.split("/")
        route, parameters = None, {}
        for candidate in self._server.vendor_routes if vendor else self._server.control_routes:
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
            received=self._server.simulator.clock(),
        )
        return route, request

    def _head(self, response: Response) -> bytes:
        headers = {
            "Date": formatdate(self._server.simulator.clock(), usegmt=True),
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            **response.headers,
        }
        reason = HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
