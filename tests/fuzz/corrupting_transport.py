"""A network without sockets to a simulated vendor, which corrupts responses."""

from collections.abc import Callable
from email.utils import formatdate

import httpx

from exporter.simulators.message import Response
from exporter.simulators.server import Simulator
from tests.chaos.in_memory_network import Endpoint

Corrupt = Callable[[str, bytes], bytes]
"""Returns the body that the client gets. Its arguments are the endpoint and the true body."""


class CorruptingTransport(httpx.BaseTransport):
    """Sends requests to a simulator, in the same thread.

    Attributes:
        seen: Endpoint and true body of each response.
        corrupt: Corrupts the bodies of responses.
        headers: Headers that are added to each response.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._endpoint = Endpoint(simulator)
        self.seen: list[tuple[str, bytes]] = []
        self.corrupt: Corrupt = lambda _, body: body
        self.headers: list[tuple[bytes, bytes]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        simulated, route = self._endpoint.parse(request)
        response = self._simulator.answer(simulated, route)
        self.seen.append((simulated.endpoint, response.body))
        return httpx.Response(
            response.status,
            headers=[*self._headers(response), *self.headers],
            stream=httpx.ByteStream(self.corrupt(simulated.endpoint, response.body)),
        )

    def _headers(self, response: Response) -> list[tuple[bytes, bytes]]:
        date = formatdate(self._simulator.clock(), usegmt=True)
        headers = {"Date": date, "Content-Type": response.content_type, **response.headers}
        return [(name.encode(), value.encode()) for name, value in headers.items()]
