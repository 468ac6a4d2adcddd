"""Northflank's API: as strict as the real API if that is known, otherwise with options."""

import math
import random
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Self, TypeVar, Unpack

import msgspec

from exporter.simulators.message import Handler, Refused, Request, Response, Route, json_response
from exporter.simulators.northflank_rows import (
    NorthflankShape,
    job_details,
    job_row,
    project_details,
    project_row,
    run_row,
    slug_of,
)
from exporter.simulators.rate import FixedWindow
from exporter.simulators.response_view import ResponseView, Seen
from exporter.simulators.server import Place, Simulator
from exporter.simulators.world import MARK, SimJob, SimRun, World

Item = TypeVar("Item")

HOUR = 3600.0
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 100


class NorthflankOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits, and behavior that the vendor does not document.

    Attributes:
        requests_per_hour: Limit per fixed window of an hour.
        order: Order of the runs. `shuffled` is the same for every request.
        forbidden: Short names of endpoints that answer 403.
        unreadable: Listed projects whose paths answer with this status.
        hidden_projects: Projects that are not listed, although their own paths work.
        missing_jobs: IDs (`project/job`) of jobs that are neither listed nor found.
        reach: Seconds after its start for which a run is kept.
        errors: Whether errors are objects or plain text.
        rows: The shape of rows.
    """

    requests_per_hour: int = 1000
    order: Literal["newest", "oldest", "shuffled"] = "newest"
    forbidden: frozenset[str] = frozenset()
    unreadable: Mapping[str, int] = {}
    hidden_projects: frozenset[str] = frozenset()
    missing_jobs: frozenset[str] = frozenset()
    reach: float = math.inf
    errors: Literal["object", "text"] = "object"
    rows: NorthflankShape = NorthflankShape()


class NorthflankSimulator(Simulator):
    """The API of one account, or with `team_id` of one team. `options` and `api_token` may change while it runs."""

    vendor: ClassVar[str] = "northflank"
    options: NorthflankOptions
    demo_id_digits: ClassVar[int] = 32

    def __init__(
        self,
        world: World,
        clock: Callable[[], float] = time.time,
        *,
        team_id: str = "",
        api_token: str = "simulated-token",  # noqa: S107  # of a simulated vendor
        options: NorthflankOptions = NorthflankOptions(),  # noqa: B008  # frozen
        **place: Unpack[Place],
    ) -> None:
        super().__init__(world, clock, **place)
        self.team_id = team_id
        self.api_token = api_token
        self.options = options
        self._limit = FixedWindow(HOUR, clock)

    @classmethod
    def demo(
        cls,
        clock: Callable[[], float] = time.time,
        *,
        speed: float = 1.0,
        **place: Unpack[Place],
    ) -> Self:
        """Return a simulator of the demo's world; its rate limit grows with the speed."""
        simulator = super().demo(clock, speed=speed, **place)
        limit = math.ceil(simulator.options.requests_per_hour * max(1.0, speed))
        simulator.options = msgspec.structs.replace(simulator.options, requests_per_hour=limit)
        return simulator

    def source_config(self, name: str = "") -> dict[str, object]:
        """Return the block under `sources:` with which the exporter reads this simulator."""
        team = {"team_id": self.team_id} if self.team_id else {}
        config = {"name": name or self.vendor, "type": self.vendor, "base_url": self.url}
        return {**config, **team, "auth": {"api_token": self.api_token}}

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints. A token of a team is valid for the team's paths only."""
        root = "/v1/teams/{team}" if self.team_id else "/v1"
        jobs = root + "/projects/{project}/jobs"
        return (
            Route("projects", "GET", root + "/projects", self._admitted(self._projects)),
            Route("login", "GET", "/v1/login", self._admitted(self._login)),
            Route("project", "GET", root + "/projects/{project}", self._admitted(self._project)),
            Route("jobs", "GET", jobs, self._admitted(self._jobs)),
            Route("job", "GET", jobs + "/{job}", self._admitted(self._job)),
            Route("runs", "GET", jobs + "/{job}/runs", self._admitted(self._runs)),
            Route("run", "GET", jobs + "/{job}/runs/{run}", self._admitted(self._run)),
        )

    def error(self, status: int, message: str) -> Response:
        """Return an error as documented, or as plain text."""
        if self.options.errors == "text":
            return Response(status=status, body=message.encode(), content_type="text/plain")
        details = {"status": status, "message": message, "id": f"error-{status}", "details": {"about": MARK}}
        return json_response({"error": details}, status)

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # one limit for all endpoints
        """Apply the rate limit. Every response shows it, with the seconds until the reset."""
        quota = self._limit.take(self.options.requests_per_hour)
        headers = {
            "x-ratelimit-limit": str(quota.limit),
            "x-ratelimit-remaining": str(quota.remaining),
            "x-ratelimit-reset": str(math.ceil(quota.reset)),
        }
        if not quota.allowed:
            raise Refused(429, "rate limit exceeded", headers)
        return headers

    def _admitted(self, handler: Handler) -> Handler:
        """Return the handler with checks of token, team, permission and project before it."""

        def admitted(request: Request) -> Response:
            if request.headers.get("authorization", "") != f"Bearer {self.api_token}":
                raise Refused(401, "invalid token")
            if request.endpoint != "login" and request.parameters.get("team", "") != self.team_id:
                raise Refused(404, "no such team")
            if request.endpoint in self.options.forbidden:
                raise Refused(403, "missing permission: Project > Jobs > General > Read")
            project = request.parameters.get("project", "")
            if project in self.options.unreadable:
                raise Refused(self.options.unreadable[project], "no access to the project")
            if project and project not in self._project_names():
                raise Refused(404, "no such project")
            return handler(request)

        return admitted

    def _project_names(self) -> list[str]:
        return list(dict.fromkeys(job.project for job in self.world.jobs()))

    def _jobs_of(self, project: str) -> list[SimJob]:
        missing = self.options.missing_jobs
        return [job for job in self.world.jobs() if job.project == project and job.job_id not in missing]

    def _projects(self, request: Request) -> Response:
        rows = [project_row(name) for name in self._project_names() if name not in self.options.hidden_projects]
        return _answer("projects", *_page(request, self.view(request).rows(rows)))

    def _login(self, request: Request) -> Response:  # noqa: ARG002  # the token alone decides
        """Return the response for the vendor's command line, which only checks that it is not an error."""
        return json_response({"data": {}})

    def _project(self, request: Request) -> Response:
        project = request.parameters["project"]
        return json_response({"data": project_details(project, self._jobs_of(project))})

    def _jobs(self, request: Request) -> Response:
        rows = [job_row(job) for job in self._jobs_of(request.parameters["project"])]
        return _answer("jobs", *_page(request, self.view(request).rows(rows)))

    def _job(self, request: Request) -> Response:
        return json_response({"data": job_details(self._job_of_path(request), self.options.rows)})

    def _job_of_path(self, request: Request) -> SimJob:
        """Return the job of a path. Raises Refused 404 if it is unknown."""
        jobs = self._jobs_of(request.parameters["project"])
        found = next((job for job in jobs if slug_of(job) == request.parameters["job"]), None)
        if found is None:
            raise Refused(404, "no such job")
        return found

    def _runs(self, request: Request) -> Response:
        job, view = self._job_of_path(request), self.view(request)
        visible = self._visible(job, view, request.received)
        seen, pagination = _page(request, visible, key=lambda one: one.run.run_id)
        return _answer("runs", view.rows([self._row(one) for one in seen]), pagination)

    def _kept(self, view: ResponseView, runs: Iterable[SimRun], now: float) -> list[Seen]:
        """Return the runs that have started and are still kept."""
        since = max(0.0, now - self.options.reach)
        return [one for one in view.see(runs) if since <= one.run.start <= one.now]

    def _visible(self, job: SimJob, view: ResponseView, now: float) -> Sequence[Seen]:
        """Return the runs of a job that have started and are still kept, in order."""
        seen = self._kept(view, self.world.runs(0.0, math.nextafter(now, math.inf), job.job_id), now)
        if self.options.order == "shuffled":
            return sorted(seen, key=lambda one: random.Random(one.run.run_id).random())
        return sorted(seen, key=lambda one: one.run.start, reverse=self.options.order == "newest")

    def _run(self, request: Request) -> Response:
        job, view = self._job_of_path(request), self.view(request)
        run = self.world.find(request.parameters["run"], request.received)
        seen = self._kept(view, [run] if run is not None and run.job_id == job.job_id else [], request.received)
        if not seen:
            raise Refused(404, "no such run")
        return json_response({"data": self._row(seen[0])})

    def _row(self, seen: Seen) -> object:
        return run_row(seen, self.options.rows)


def _answer(key: str, rows: Sequence[object], pagination: Mapping[str, object]) -> Response:
    return json_response({"data": {key: rows}, "pagination": {**pagination, "count": len(rows)}})


def _page(
    request: Request, items: Sequence[Item], key: Callable[[Item], str] | None = None
) -> tuple[Sequence[Item], dict[str, object]]:
    """Return the requested page of a list, and its pagination.

    With a key, a cursor is the key of the last item shown, so that new items before it do not move the next page.
    Without a key, it is a number of items.
    """
    size = _whole(request, "per_page", DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    cursor = request.query.get("cursor")
    if cursor is not None and "page" in request.query:
        raise Refused(400, "cursor and page exclude each other")
    start = (_whole(request, "page", 1, 10**9) - 1) * size
    if cursor is not None:
        start = _offset_after(_read(cursor), items, key)
    shown, more = items[start : start + size], start + size < len(items)
    if not more:
        return shown, {"hasNextPage": False}
    last = str(start + size) if key is None else key(shown[-1])
    return shown, {"hasNextPage": True, "cursor": urlsafe_b64encode(last.encode()).decode()}


def _whole(request: Request, name: str, default: int, largest: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise Refused(400, f"{name} must be between 1 and {largest}")
    return int(text)


def _read(cursor: str) -> str:
    try:
        return urlsafe_b64decode(cursor).decode()
    except (NotBase64, ValueError):
        raise Refused(400, "not a cursor") from None


def _offset_after(last: str, items: Sequence[Item], key: Callable[[Item], str] | None) -> int:
    """Return the number of items before the next page."""
    if key is None and last.isdecimal():
        return int(last)
    place = next((number for number, item in enumerate(items, start=1) if key and key(item) == last), None)
    if place is None:
        raise Refused(400, "the cursor is no longer valid")
    return place
