"""Snowplow Console's jobs API: as strict as the real API if that is known, otherwise with options."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Unpack

import msgspec

from exporter.model import Window
from exporter.simulators.message import Handler, Refused, Request, Response, Route, enveloped, json_response
from exporter.simulators.rate import FixedWindow
from exporter.simulators.response_view import ResponseView, Seen
from exporter.simulators.server import Place, Simulator
from exporter.simulators.snowplow_rows import SnowplowShape, run_row, step_output, step_row
from exporter.simulators.snowplow_sign_in import SnowplowCredentials, check_key, check_key_and_id, check_password
from exporter.simulators.snowplow_window import asked_window, survivors
from exporter.simulators.tokens import Tokens
from exporter.simulators.world import SimRun, World

ORGANIZATION = "5a7e9c1e-0000-4000-8000-000000000000"
ROOT = "/api/msc/v1/organizations/{org}"
RUNS = ROOT + "/jobs/v1/runs"
OUTPUT_TAIL = 10_000

Flow = Literal["v3", "v2", "password"]


class SnowplowOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits, and behavior that the vendor does not document.

    Attributes:
        longest_window: Maximum `to - from`, in seconds.
        reach: Maximum age of `from`. Runs that started earlier (or were created earlier, if they wait) are gone.
        event_limit: A response has only runs with one of the latest state changes; their maximum number.
        select: Whether a window has all runs that started in it, or all runs with a state change in it.
        as_of: Whether rows show the current state of runs, or their state at `to`.
        order: Order of the list.
        steps_late: Seconds by which steps lag behind, so that a completed run can have active steps.
        future_to: Whether a `to` in the future is refused.
        token_lifetime: Lifetime of a token, in seconds.
        token_field: Field with the token in the response to a sign-in by key. By password it is always `access_token`.
        flows: The supported sign-ins. Others return 404.
        forbidden: Short names of endpoints that return 403.
        requests_per_minute: 0 for no limit, as the real API probably has none.
        rows: The shape of rows.
    """

    longest_window: float = 96 * 3600.0
    reach: float = 7 * 86400.0
    event_limit: int = 10_000
    select: Literal["start", "event"] = "start"
    as_of: Literal["now", "to"] = "now"
    order: Literal["newest", "oldest", "shuffled"] = "newest"
    steps_late: float = 0.0
    future_to: Literal["refused", "accepted"] = "refused"
    token_lifetime: float = 86400.0
    token_field: str = "accessToken"
    flows: frozenset[Flow] = frozenset({"v3", "v2", "password"})
    forbidden: frozenset[str] = frozenset()
    requests_per_minute: int = 0
    rows: SnowplowShape = SnowplowShape()


class SnowplowSimulator(Simulator):
    """The API of one organization. `options` and `credentials` may be replaced while it runs."""

    vendor: ClassVar[str] = "snowplow"
    options: SnowplowOptions

    def __init__(
        self,
        world: World,
        clock: Callable[[], float] = time.time,
        *,
        organization_id: str = ORGANIZATION,
        credentials: SnowplowCredentials = SnowplowCredentials(),  # noqa: B008  # frozen
        options: SnowplowOptions = SnowplowOptions(),  # noqa: B008  # frozen
        **place: Unpack[Place],
    ) -> None:
        super().__init__(world, clock, **place)
        self.organization_id = organization_id
        self.credentials = credentials
        self.options = options
        self._tokens = Tokens(clock)
        self._random = random.Random(place.get("seed", 0))
        self._limit = FixedWindow(60.0, clock)

    def source_config(self, name: str = "") -> dict[str, object]:
        """Return the block under `sources:` with which the exporter reads this simulator."""
        return {
            "name": name or self.vendor,
            "type": self.vendor,
            "base_url": self.url,
            "organization_id": self.organization_id,
            "auth": {"api_key_id": self.credentials.api_key_id, "api_key": self.credentials.api_key},
        }

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints."""
        return (
            Route("runs", "GET", RUNS, self._admitted(self._runs)),
            Route("run", "GET", RUNS + "/{run}", self._admitted(self._run)),
            Route("steps", "GET", RUNS + "/{run}/steps", self._admitted(self._steps)),
            Route("step", "GET", RUNS + "/{run}/steps/{step}", self._admitted(self._step)),
            Route("token_v3", "GET", ROOT + "/credentials/v3/token", self._known(self._by_key_and_id)),
            Route("token_v2", "GET", ROOT + "/credentials/v2/token", self._known(self._by_key)),
            Route("token_password", "POST", "/oauth/token", self._by_password),
        )

    def controls(self) -> Sequence[Route]:
        """Return the common control API and an endpoint that revokes all tokens."""
        return (*super().controls(), Route("expire_tokens", "POST", "/-/expire-tokens", self._expire_tokens))

    def expire_tokens(self) -> None:
        """Revoke every token: the next request with one gets 401."""
        self._tokens.revoke_all()

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # one limit for all endpoints
        """Apply the rate limit, if there is one."""
        if self.options.requests_per_minute:
            quota = self._limit.take(self.options.requests_per_minute)
            if not quota.allowed:
                raise Refused(429, "too many requests", {"Retry-After": str(int(quota.reset) + 1)})
        return {}

    def _admitted(self, handler: Handler) -> Handler:
        """Return the handler with checks of token, permission and organization before it."""

        def admitted(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme != "Bearer" or not self._tokens.good(token):
                raise Refused(401, "invalid token")
            if request.endpoint in self.options.forbidden:
                raise Refused(403, "missing permission: Data models & jobs: View")
            return known(request)

        known = self._known(handler)
        return admitted

    def _known(self, handler: Handler) -> Handler:
        """Return the handler with a check of the organization before it."""

        def known(request: Request) -> Response:
            if request.parameters["org"] != self.organization_id:
                raise Refused(404, "no such organization")
            return handler(request)

        return known

    def _by_key_and_id(self, request: Request) -> Response:
        check_key_and_id(request, self.credentials)
        return self._key_token("v3")

    def _by_key(self, request: Request) -> Response:
        check_key(request, self.credentials)
        return self._key_token("v2")

    def _by_password(self, request: Request) -> Response:
        check_password(request, self.credentials)
        return json_response({"access_token": self._issued("password"), "token_type": "Bearer"})

    def _key_token(self, flow: Flow) -> Response:
        return json_response({self.options.token_field: self._issued(flow)})

    def _issued(self, flow: Flow) -> str:
        if flow not in self.options.flows:
            raise Refused(404, "no such path")
        return self._tokens.issue(self.options.token_lifetime)

    def _runs(self, request: Request) -> Response:
        now = request.received
        window = self._allowed(asked_window(request.query, now), now)
        options, view = self.options, self.view(request)
        seen = self._selected(self._visible(view, self.world.runs(window.start, window.end), now), window)
        by_event = window if options.select == "event" else None
        rows = [self._row(one) for one in self._ordered(survivors(seen, options.event_limit, by_event))]
        return json_response(enveloped(view.rows(rows), options.rows.envelope))

    def _row(self, seen: Seen) -> object:
        return run_row(seen, self.options.rows)

    def _allowed(self, window: Window, now: float) -> Window:
        problems = (
            (window.start > window.end, "from is after to"),
            (window.length > self.options.longest_window, "the window is too long"),
            (window.start < now - self.options.reach, "from is too long ago"),
            (window.end > now and self.options.future_to == "refused", "to is in the future"),
        )
        for wrong, message in problems:
            if wrong:
                raise Refused(400, message)
        return window

    def _visible(self, view: ResponseView, runs: Iterable[SimRun], now: float) -> list[Seen]:
        """Return the visible runs that are not too old."""
        return [one for one in view.see(runs) if _listed_start(one) >= now - self.options.reach]

    def _selected(self, seen: list[Seen], window: Window) -> list[Seen]:
        """Return the runs that started in a window; with `event`, all runs that may have an event in it."""
        if self.options.select == "start":
            seen = [one for one in seen if window.start <= _listed_start(one) < window.end]
        if self.options.as_of == "to":
            seen = [Seen(run, min(now, window.end)) for run, now in seen if run.created <= window.end]
        return seen

    def _ordered(self, seen: list[Seen]) -> list[Seen]:
        if self.options.order == "shuffled":
            return self._random.sample(seen, len(seen))
        return sorted(seen, key=_listed_start, reverse=self.options.order == "newest")

    def _found(self, request: Request) -> tuple[Seen, ResponseView]:
        """Return the run of a path. Raises Refused 404 if it is unknown, not yet visible, or too old."""
        run = self.world.find(request.parameters["run"], request.received)
        view = self.view(request)
        seen = self._visible(view, [] if run is None else [run], request.received)
        if not seen:
            raise Refused(404, "no such run")
        return seen[0], view

    def _run(self, request: Request) -> Response:
        seen, view = self._found(request)
        shape = self.options.rows
        run, steps = run_row(seen, shape), {shape.steps_key: self._step_rows(seen, view)}
        return json_response({shape.run_envelope: run} | steps if shape.run_envelope else run | steps)

    def _steps(self, request: Request) -> Response:
        seen, view = self._found(request)
        return json_response(enveloped(self._step_rows(seen, view), self.options.rows.steps_envelope))

    def _step_rows(self, seen: Seen, view: ResponseView) -> list[dict[str, object]]:
        now = seen.now - self.options.steps_late
        return view.rows([step_row(step, now, self.options.rows) for step in seen.run.steps])

    def _step(self, request: Request) -> Response:
        seen, _ = self._found(request)
        step = next((step for step in seen.run.steps if step.name == request.parameters["step"]), None)
        if step is None:
            raise Refused(404, "no such step")
        stdout, stderr = step_output(seen.run, step, seen.now)
        row = step_row(step, seen.now, self.options.rows)
        return json_response(row | {"stdout": stdout[-OUTPUT_TAIL:], "stderr": stderr[-OUTPUT_TAIL:]})

    def _expire_tokens(self, _request: Request) -> Response:
        self.expire_tokens()
        return json_response({})


def _listed_start(seen: Seen) -> float:
    """Return the time that decides whether a window has a run: its start, or its creation while it waits."""
    run, now = seen
    return run.start if run.start <= now else run.created
