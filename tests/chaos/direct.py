"""From the client to the simulators without sockets: weeks of polls in minutes, with the same disruptions.

The real processes (`tests.chaos.process_chaos`) test sockets.
"""

from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from urllib.parse import parse_qsl

import httpx

from exporter.simulators.message import Request, Response, Route
from exporter.simulators.server import Simulator

TIMEOUT = 60.0
"""Timeout of the sources' client, in seconds."""


class Delivery:
    """The received part of a response. Disruptions use it as their wire."""

    def __init__(self, pass_time: Callable[[float], object]) -> None:
        self.data = b""
        self._pass_time = pass_time

    def send(self, data: bytes) -> None:
        self.data += data

    def pause(self, seconds: float | None) -> bool:
        self._pass_time(TIMEOUT if seconds is None else seconds)
        if seconds is None:
            raise httpx.ReadTimeout("no answer")
        return True

    def close(self, *, abruptly: bool = False) -> None:
        """Return the response from what was sent."""


class Endpoints:
    """One simulator: its routes, and whether it listens."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.listening = True
        self._routes = tuple(simulator.routes())

    def requested(self, request: httpx.Request) -> tuple[Request, Route | None]:
        """Return the request as the simulator sees it."""
        path = request.url.raw_path.decode().partition("?")[0]
        segments = path.split("/")
        matches = ((route, route.match(request.method, segments)) for route in self._routes)
        route, parameters = next(((route, found) for route, found in matches if found is not None), (None, {}))
        return Request(
            method=request.method,
            path=path,
            query=dict(parse_qsl(request.url.query.decode(), keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.read(),
            endpoint="" if route is None else route.endpoint,
            template="" if route is None else route.template,
            parameters=parameters,
            received=self.simulator.clock(),
        ), route

    def answered(self, request: Request, route: Route | None) -> Response:
        """Return the response, or that of a disruption."""
        simulator = self.simulator
        disruption = simulator.disruptions.answer_disruption(request)
        if disruption is None:
            return simulator.answer(request, route)
        return disruption.answer(simulator.error(disruption.error_status, "injected disruption"), simulator.clock())


class Direct(httpx.BaseTransport):
    """The network of a harness.

    Attributes:
        pass_time: Moves the clock by a number of seconds.
        wrong_dates: Seconds by which the `Date` of each of the next responses is wrong.
    """

    def __init__(self, simulators: Iterable[Simulator], pass_time: Callable[[float], object]) -> None:
        self.endpoints = {simulator.url: Endpoints(simulator) for simulator in simulators}
        self._pass_time = pass_time
        self.wrong_dates: list[float] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Handle one exchange. Raises the errors of a real network."""
        url = request.url
        there = self.endpoints.get(f"{url.scheme}://{url.host}:{url.port}")
        if there is None or not there.listening:
            raise httpx.ConnectError("nobody listens")
        seen, route = there.requested(request)
        response = there.answered(seen, route)
        harm = there.simulator.disruptions.delivery_disruption(seen)
        if harm is not None:
            delivery = Delivery(self._pass_time)
            harm.deliver(delivery, b"", response.body)
            if len(delivery.data) < len(response.body) or not delivery.data:
                raise httpx.RemoteProtocolError("the answer broke off")
        wrong = self.wrong_dates.pop() if self.wrong_dates else 0.0
        date = formatdate(there.simulator.clock() + wrong, usegmt=True)
        headers = {"Date": date, "Content-Type": response.content_type}
        return httpx.Response(response.status, headers={**headers, **response.headers}, stream=Bytes(response.body))

    def close(self) -> None:
        """Keep open: a new assembly continues with it."""


class Bytes(httpx.SyncByteStream):
    """A body in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
