"""A simulated vendor without sockets, whose responses can be spoiled."""

from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import parse_qsl

import httpx

from exporter.simulators.message import Request, Response, Route
from exporter.simulators.server import Simulator

Spoil = Callable[[str, bytes], bytes]
"""Endpoint and body of an answer → the body that is delivered."""


class InProcessVendor(httpx.BaseTransport):
    """Sends requests to the simulator, in this thread.

    Attributes: `seen` (endpoint and true body of each response), `spoil`, `headers` (added to each response).
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._routes = tuple(simulator.routes())
        self.seen: list[tuple[str, bytes]] = []
        self.spoil: Spoil = lambda _, body: body
        self.headers: list[tuple[bytes, bytes]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        simulated, route = self._request(request)
        answer = self._simulator.answer(simulated, route)
        self.seen.append((simulated.endpoint, answer.body))
        return httpx.Response(
            answer.status,
            headers=[*self._headers(answer), *self.headers],
            stream=httpx.ByteStream(self.spoil(simulated.endpoint, answer.body)),
        )

    def _headers(self, answer: Response) -> list[tuple[bytes, bytes]]:
        date = formatdate(self._simulator.clock(), usegmt=True)
        headers = {"Date": date, "Content-Type": answer.content_type, **answer.headers}
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def _request(self, request: httpx.Request) -> tuple[Request, Route | None]:
        path, _, query = request.url.raw_path.decode().partition("?")
        matches = ((route, route.match(request.method, path.split("/"))) for route in self._routes)
        route, parameters = next((pair for pair in matches if pair[1] is not None), (None, {}))
        simulated = Request(
            method=request.method,
            path=path,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.read(),
            endpoint="" if route is None else route.endpoint,
            template="" if route is None else route.template,
            parameters=parameters or {},
            received=self._simulator.clock(),
        )
        return simulated, route
