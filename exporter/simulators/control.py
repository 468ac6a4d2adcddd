"""The control API of every simulator, under `/-/`, without authentication: ground truth, requests, disruptions."""

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from exporter.model import Result
from exporter.simulators.clock import Clock
from exporter.simulators.disruptions import AnyDisruption
from exporter.simulators.injector import Injector
from exporter.simulators.message import Refused, Request, Response, Route, json_response
from exporter.simulators.request_log import RequestLog
from exporter.simulators.script import RunScript
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.world import SimRun, World

T = TypeVar("T")

TRUTH_REACH = 8 * 86400.0
"""How far back the ground truth goes by default, in seconds."""


class TrueStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step. `result`: None while it is active."""

    name: str
    result: Result | None
    start: float | None
    end: float | None
    no_op: bool


class TrueRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the ground truth. `result` and `end`: None while it is active. `state`: "" after it has completed."""

    run_id: str
    job_id: str
    job: str
    project: str
    state: str
    result: Result | None
    created: float
    start: float | None
    end: float | None
    retries: int
    error_type: str
    steps: tuple[TrueStep, ...]


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """The response of `GET /-/truth`: completed runs by end, active runs by creation."""

    now: float
    endings: list[TrueRun]
    open: list[TrueRun]


def truth(world: World, now: float, since: float, until: float) -> Truth:
    """Return all runs that completed in [since, until) and before now, and all runs that are active now."""
    runs = [run for run in world.runs(since, math.nextafter(max(now, since), math.inf)) if run.created <= now]
    ended = [run for run in runs if run.end is not None and since <= run.end < until and run.end <= now]
    still_open = [run for run in runs if run.end is None or run.end > now]
    return Truth(
        now=now,
        endings=sorted((_true_run(run, now) for run in ended), key=lambda run: (run.end or 0.0, run.run_id)),
        open=[_true_run(run, now) for run in still_open],
    )


def control_routes(
    vendor: str, world: World, clock: Callable[[], float], disruptions: Injector, log: RequestLog
) -> tuple[Route, ...]:
    """Return the routes that every simulator's control API has."""
    control = _Control(vendor, world, clock, disruptions, log)
    return (
        Route("healthy", "GET", "/-/healthy", control.healthy),
        Route("truth", "GET", "/-/truth", control.truth),
        Route("requests", "GET", "/-/requests", control.requests),
        Route("forget_requests", "DELETE", "/-/requests", control.forget_requests),
        Route("disruptions", "GET", "/-/faults", control.disruptions),
        Route("set_disruptions", "POST", "/-/faults", control.set_disruptions),
        Route("clear_disruptions", "DELETE", "/-/faults", control.clear_disruptions),
        Route("add_runs", "POST", "/-/runs", control.add_runs),
        Route("clock", "GET", "/-/clock", control.clock),
        Route("set_clock", "POST", "/-/clock", control.set_clock),
    )


class _SetClock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    now: float | None = None
    advance: float = 0.0


class _Control:
    def __init__(
        self, vendor: str, world: World, clock: Callable[[], float], disruptions: Injector, log: RequestLog
    ) -> None:
        self._vendor = vendor
        self._world = world
        self._clock = clock
        self._disruptions = disruptions
        self._log = log

    def healthy(self, _request: Request) -> Response:
        return json_response({"vendor": self._vendor, "now": self._clock()})

    def truth(self, request: Request) -> Response:
        now = self._clock()
        since = _time(request, "since", now - TRUTH_REACH)
        until = _time(request, "until", float("inf"))
        return json_response(truth(self._world, now, since, until))

    def requests(self, request: Request) -> Response:
        lines = self._log.lines(request.query.get("endpoint"))
        counts = [
            {"endpoint": endpoint, "status": status, "count": count}
            for (endpoint, status), count in sorted(self._log.counts().items())
        ]
        return json_response({"requests": lines, "counts": counts, "total": sum(self._log.counts().values())})

    def forget_requests(self, _request: Request) -> Response:
        self._log.clear()
        return json_response({})

    def disruptions(self, _request: Request) -> Response:
        return json_response(list(self._disruptions.current()))

    def set_disruptions(self, request: Request) -> Response:
        self._disruptions.set(decoded(request, list[AnyDisruption]))
        return self.disruptions(request)

    def clear_disruptions(self, request: Request) -> Response:
        self._disruptions.clear()
        return self.disruptions(request)

    def add_runs(self, request: Request) -> Response:
        world = self._world
        if not isinstance(world, ScriptedWorld):
            raise Refused(409, "only a scripted world accepts runs")
        scripts = decoded(request, list[RunScript])
        return json_response([_true_run(world.add_script(script), self._clock()) for script in scripts])

    def clock(self, _request: Request) -> Response:
        return json_response({"now": self._clock()})

    def set_clock(self, request: Request) -> Response:
        clock = self._clock
        if not isinstance(clock, Clock):
            raise Refused(409, "this simulator uses real time")
        wanted = decoded(request, _SetClock)
        clock.set((clock() if wanted.now is None else wanted.now) + wanted.advance)
        return self.clock(request)


def decoded(request: Request, wanted: type[T]) -> T:
    """Return the request's JSON body as a type. Raises Refused 400 if it is not valid."""
    try:
        return msgspec.json.decode(request.body, type=wanted)
    except msgspec.DecodeError as error:
        raise Refused(400, str(error)) from error


def _time(request: Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError as error:
        raise Refused(400, f"{name}: not Unix seconds") from error


def _true_run(run: SimRun, now: float) -> TrueRun:
    now_is = run.at(now)
    result = now_is if isinstance(now_is, Result) else None
    return TrueRun(
        run_id=run.run_id,
        job_id=run.job_id,
        job=run.job_name,
        project=run.project,
        state="" if result else str(now_is),
        result=result,
        created=run.created,
        start=run.start if run.start <= now else None,
        end=run.end if result else None,
        retries=run.attempts - 1,
        error_type=run.error_type if result else "",
        steps=tuple(
            TrueStep(
                name=step.name,
                result=step_is if isinstance(step_is := step.at(now), Result) else None,
                start=step.start if step.start is not None and step.start <= now else None,
                end=step.end if step.end is not None and step.end <= now else None,
                no_op=step.no_op,
            )
            for step in run.steps
        ),
    )
