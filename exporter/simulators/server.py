"""Base class of simulated vendors over real HTTP."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypedDict, Unpack

from exporter.simulators.contradiction import contradicted
from exporter.simulators.control import TRUTH_REACH, Truth, control_routes, decoded, truth
from exporter.simulators.demo import demo_world
from exporter.simulators.disruptions import WrongAnswer
from exporter.simulators.injector import Injector
from exporter.simulators.listener import Listener
from exporter.simulators.message import Refused, Request, Response, Route, json_response
from exporter.simulators.request_log import RequestLog
from exporter.simulators.response_view import ResponseView
from exporter.simulators.world import World

STOP_LATENCY = 0.02
"""Maximum seconds until the listener notices a stop."""


class Place(TypedDict, total=False):
    """The address of a simulator, and the seed of its disruptions."""

    host: str
    port: int
    seed: int


class Simulator:
    """A vendor's API on loopback. A subclass adds `routes` and the shape of errors.

    Use it as a context manager, or call `start` and `stop`. It can start again on the same port. Handlers use
    `request.received` as the current time, so that the whole response shows one time.

    Attributes:
        world: The ground truth.
        disruptions: The active disruptions.
        log: The requests received.
    """

    vendor: ClassVar[str] = ""
    options: Any = None
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
        **place: Unpack[Place],
    ) -> Self:
        """Return a simulator of the demo's world of this vendor, not yet started."""
        world = demo_world(cls.vendor, clock, speed, place.get("seed", 0), cls.demo_id_digits)
        return cls(world, clock, **place)

    def truth(self, since: float | None = None, until: float = math.inf) -> Truth:
        """Return the ground truth: runs that completed in [since, until), by default in the last 8 days."""
        now = self.clock()
        return truth(self.world, now, now - TRUTH_REACH if since is None else since, until)

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints."""
        raise NotImplementedError

    def controls(self) -> Sequence[Route]:
        """Return the endpoints of the control API, under `/-/`. A subclass may add some."""
        return (
            *control_routes(self.vendor, self.world, self.clock, self.disruptions, self.log),
            Route("options", "GET", "/-/options", self._show_options),
            Route("set_options", "POST", "/-/options", self._set_options),
        )

    def _show_options(self, _request: Request) -> Response:
        return json_response(self.options)

    def _set_options(self, request: Request) -> Response:
        # Options that are not in the request get their defaults.
        self.options = decoded(request, type(self.options))
        return self._show_options(request)

    def error(self, status: int, message: str) -> Response:
        """Return an error in the vendor's shape."""
        return json_response({"message": message}, status)

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # a hook for subclasses
        """Return headers for a response, or raise Refused. Called before each of the vendor's handlers."""
        return {}

    def source_config(self, name: str = "") -> dict[str, object]:
        """Return the block under `sources:` with which the exporter reads this simulator."""
        raise NotImplementedError

    def view(self, request: Request) -> ResponseView:
        """Return the world as a response shows it, including wrong answers. Call it once per response."""
        if request.wrong_answers is None:
            wrong_answers = self.disruptions.wrong_answers(request)
        else:
            wrong_answers = [each for each in request.wrong_answers if isinstance(each, WrongAnswer)]
        return ResponseView(request.received, wrong_answers, self.disruptions.random() if wrong_answers else None)

    @property
    def url(self) -> str:
        """Return scheme, host and port."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Listen, and return as soon as requests are answered."""
        self._server = Listener((self._host, self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(STOP_LATENCY,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening, and end all connections, including those that hang."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Request, route: Route | None) -> Response:
        """Return the response to a request, refusals included."""
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
        """Return the handler's response with the active contradictions."""
        response = route.handler(request)
        for disruption in self.disruptions.contradictions(request):
            response = contradicted(request, response, disruption, route.handler, self.disruptions.random())
        return response
