"""A network without sockets between the exporter's client and the simulators, with the simulators' disruptions.

It makes weeks of polls possible in minutes. `tests.chaos.process_chaos` tests sockets.
"""

from collections.abc import Callable, Iterable
from email.utils import formatdate
from urllib.parse import parse_qsl

import httpx

from exporter.simulators.message import Request, Response, Route
from exporter.simulators.server import Simulator

TIMEOUT = 60.0
"""The setting `timeout` of all sources, in seconds."""


class ReceivedBody:
    """The connection to which a disruption sends a response. It keeps what the client receives.

    It has the interface of `exporter.simulators.disruptions.Wire`.
    """

    def __init__(self, advance: Callable[[float], object]) -> None:
        self.data = b""
        self._advance = advance

    def send(self, data: bytes) -> None:
        self.data += data

    def pause(self, seconds: float | None) -> bool:
        self._advance(TIMEOUT if seconds is None else seconds)
        if seconds is None:
            raise httpx.ReadTimeout("no answer")
        return True

    def close(self, *, abruptly: bool = False) -> None:
        """Do nothing: the client gets what was sent before."""


class Endpoint:
    """A simulator without a socket. `listening`: whether it accepts connections."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.listening = True
        self._routes = tuple(simulator.routes())

    def parse(self, request: httpx.Request) -> tuple[Request, Route | None]:
        """Return the simulator's form of a request, and its route; None if no route matches."""
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

    def respond(self, request: Request, route: Route | None) -> Response:
        """Return the response of the simulator, or of the disruption that replaces it."""
        simulator = self.simulator
        disruption = simulator.disruptions.answer_disruption(request)
        if disruption is None:
            return simulator.answer(request, route)
        return disruption.answer(simulator.error(disruption.error_status, "injected disruption"), simulator.clock())


class InMemoryNetwork(httpx.BaseTransport):
    """Sends the requests of the exporter's client to the simulators.

    Attributes:
        endpoints: The simulators by their URL.
        wrong_dates: For the next responses, the seconds by which `Date` is wrong. Each is used once.
    """

    def __init__(self, simulators: Iterable[Simulator], advance: Callable[[float], object]) -> None:
        self.endpoints = {simulator.url: Endpoint(simulator) for simulator in simulators}
        self._advance = advance
        self.wrong_dates: list[float] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response to a request. Raise the errors that a real network would cause."""
        url = request.url
        endpoint = self.endpoints.get(f"{url.scheme}://{url.host}:{url.port}")
        if endpoint is None or not endpoint.listening:
            raise httpx.ConnectError("nobody listens")
        simulated, route = endpoint.parse(request)
        response = endpoint.respond(simulated, route)
        disruption = endpoint.simulator.disruptions.delivery_disruption(simulated)
        if disruption is not None:
            received = ReceivedBody(self._advance)
            disruption.deliver(received, b"", response.body)
            if len(received.data) < len(response.body) or not received.data:
                raise httpx.RemoteProtocolError("the answer broke off")
        wrong = self.wrong_dates.pop() if self.wrong_dates else 0.0
        date = formatdate(endpoint.simulator.clock() + wrong, usegmt=True)
        headers = {"Date": date, "Content-Type": response.content_type}
        return httpx.Response(
            response.status, headers={**headers, **response.headers}, stream=httpx.ByteStream(response.body)
        )

    def close(self) -> None:
        """Do nothing: the assembly after a reload or restart uses the same network."""
