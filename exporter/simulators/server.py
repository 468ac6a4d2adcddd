"""A simulated vendor over real HTTP: what all of them share."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

from exporter.simulators.contradiction import contradicted
from exporter.simulators.control import TRUTH_REACH, Truth, control_routes, truth
from exporter.simulators.demo import demo_world
from exporter.simulators.disruptions import Lie
from exporter.simulators.injector import Injector
from exporter.simulators.listener import Listener
from exporter.simulators.message import Refused, Request, Response, Route, json_response
from exporter.simulators.request_log import RequestLog
from exporter.simulators.response_view import Sight
from exporter.simulators.world import World

STOP_LATENCY = 0.02
"""How long a stop may take to be noticed, in seconds."""


class Simulator:
    """A vendor's API on loopback: a subclass gives `routes` and the shape of errors.

    Handlers take `request.received` as now, so that one answer knows one instant.
    Use it as a context manager, or `start` and `stop` it; after a stop it can start again on the same port.
    Attributes: `world` (what truly happens), `clock`, `faults` (the injector), `log` (of requests), `url`.
    """

    vendor: ClassVar[str] = ""
    demo_id_digits: ClassVar[int] = 64

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
        self.disruptions = Injector(seed, clock)
        self._host, self._port = host, port
        self.log = RequestLog()
        self._server: Listener | None = None

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
        """Return a simulator of the demo's world of this vendor, not yet started."""
        world = demo_world(cls.vendor, clock, speed, seed, cls.demo_id_digits)
        return cls(world, clock, host=host, port=port, seed=seed)

    def truth(self, since: float | None = None, until: float = math.inf) -> Truth:
        """What `GET /-/truth` answers: endings with an end in [since, until), since 8 days ago if not told."""
        now = self.clock()
        return truth(self.world, now, now - TRUTH_REACH if since is None else since, until)

    def routes(self) -> Sequence[Route]:
        """The vendor's endpoints."""
        raise NotImplementedError

    def controls(self) -> Sequence[Route]:
        """The control API, under `/-/`; a vendor may add to it."""
        return control_routes(self.vendor, self.world, self.clock, self.disruptions, self.log)

    def error(self, status: int, message: str) -> Response:
        """An error in the vendor's shape."""
        return json_response({"message": message}, status)

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # a hook for subclasses
        """Called before each of the vendor's handlers: headers for every answer, or `Refused` (rate limits)."""
        return {}

    def source_config(self, name: str = "") -> dict[str, object]:
        """The block under `sources:` that reads this simulator; its name is the vendor's unless given."""
        raise NotImplementedError

    def sight(self, request: Request) -> Sight:
        """What this answer shows of the world, lies included. To be called once for an answer."""
        if request.lies is None:
            lies = self.disruptions.lies(request)
        else:
            lies = [lie for lie in request.lies if isinstance(lie, Lie)]
        return Sight(request.received, lies, self.disruptions.random() if lies else None)

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Listens; returns once requests are answered."""
        self._server = Listener((self._host, self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(STOP_LATENCY,), daemon=True).start()
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

    def answer(self, request: Request, route: Route | None) -> Response:
        """The answer to a request, refusals included."""
        headers: Mapping[str, str] = {}
        if route is None:
            return self.error(404, "no such path")
        try:
            if not route.template.startswith("/-/"):
                headers = self.admit(request)
            return self._contradicted(request, route).with_headers(headers)
        except Refused as refusal:
            return self.error(refusal.status, refusal.message).with_headers({**headers, **refusal.headers})

    def _contradicted(self, request: Request, route: Route) -> Response:
        """The handler's answer, with the contradictions in force."""
        response = route.handler(request)
        for disruption in self.disruptions.contradictions(request):
            response = contradicted(request, response, disruption, route.handler, self.disruptions.random())
        return response
