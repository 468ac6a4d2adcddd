"""Strait's API, with the defects that its real server has."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, Unpack

import msgspec

from exporter.simulators.message import Handler, Refused, Request, Response, Route, json_response
from exporter.simulators.rate import FixedWindow, Quota
from exporter.simulators.response_view import ResponseView
from exporter.simulators.server import Place, Simulator
from exporter.simulators.strait_pages import (
    ADDRESS_LIMIT,
    UNKNOWN_PATH,
    PagedRow,
    Paging,
    cursor_of,
    error_response,
    limit_of,
    paged,
    time_of,
)
from exporter.simulators.strait_rows import (
    JOBS_CREATED,
    RUN_STATUSES,
    WORKFLOW_STATUSES,
    Life,
    StraitShape,
    export_csv,
    job_row,
    lives,
    microseconds,
    plain_id,
    run_row,
    run_status,
    step_row,
    timeline,
    workflow_row,
    workflow_run_row,
    workflow_status,
)
from exporter.simulators.world import SimJob, World

ROOT = "/v1"
API_KEY = "strait_simulated"
RETENTION = 30 * 86400.0
"""Seconds after their end for which runs are shown."""

TRUNCATED_PART = 0.7
"""Fraction of an export that is left after truncation."""

MAX_FAILED_SIGN_INS, SIGN_IN_PERIOD = 10, 900.0
"""After this many failed sign-ins within this many seconds, the address is blocked."""

WINDOWS = {"1h": 3600.0, "1d": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}

NO_LIMIT = 100_000
"""The limit that headers show if there is no limit."""

OPEN_STATUSES = ("delayed", "replay_staged", "queued", "dequeued", "executing", "waiting", "paused")
STATUSES = frozenset({*OPEN_STATUSES, *RUN_STATUSES.values(), "dead_letter", "system_failed"})
STATUSES_OF_WORKFLOWS = frozenset({*WORKFLOW_STATUSES.values(), "paused", "compensating", "compensated"})
SCOPES = {
    "jobs": "jobs:read",
    "job": "jobs:read",
    "health": "jobs:read",
    "stats": "stats:read",
    "dead_letters": "runs:read",
    "runs": "runs:read",
    "run": "runs:read",
    "export": "runs:read",
    "workflows": "workflows:read",
    "workflow_runs": "workflows:read",
    "workflow_run": "workflows:read",
    "steps": "workflows:read",
    "timeline": "workflows:read",
}


class StraitOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and shapes.

    Attributes:
        lists: Whether a list is an object with a cursor, or a bare array as in the vendor's documentation.
        scopes: Scopes of the key. An empty set gives full access.
        requests_per_minute: Limit per key; 0 for no limit, for tests with a fixed clock. The real server's default is
            1,000. Headers show each limit.
        address_requests_per_minute: Limit per address; 0 for no limit. The real server's default is 100.
        largest_body: Maximum bytes of a response. A larger one is refused with 413.
        hidden: Fraction of runs that a key of one environment does not see, so that pages are short or empty.
        unknown_words: Statuses that this server does not know, because it is too old.
        workflows: Whether this server has workflows.
        export: The response of the export of runs: all IDs with stale states, a truncated or an empty CSV, or an error
            with this status.
        rows: The shape of rows.
    """

    lists: Literal["page", "array"] = "page"
    scopes: frozenset[str] = frozenset({"jobs:read", "runs:read", "workflows:read"})
    requests_per_minute: int = 0
    address_requests_per_minute: int = 0
    largest_body: int = 16 * 1024 * 1024
    hidden: float = 0.0
    unknown_words: frozenset[str] = frozenset()
    workflows: bool = True
    export: Literal["stale", "cut", "empty"] | int = "stale"
    rows: StraitShape = StraitShape()


class StraitSimulator(Simulator):
    """The API of one server. A job whose runs have steps is a workflow. `options` may be replaced while it runs.

    Rows show all projects of the world, although a real API key sees only one.
    """

    vendor: ClassVar[str] = "strait"
    options: StraitOptions

    def __init__(
        self,
        world: World,
        clock: Callable[[], float] = time.time,
        *,
        api_key: str = API_KEY,
        options: StraitOptions = StraitOptions(),  # noqa: B008  # frozen
        **place: Unpack[Place],
    ) -> None:
        super().__init__(world, clock, **place)
        self.api_key = api_key
        self.options = options
        self._limit = FixedWindow(60.0, clock)
        self._address_limit = FixedWindow(60.0, clock)
        self._failed_sign_ins: deque[float] = deque(maxlen=MAX_FAILED_SIGN_INS)
        self._workflows: set[str] = set()

    def source_config(self, name: str = "") -> dict[str, object]:
        """Return the block under `sources:` with which the exporter reads this simulator."""
        return {
            "name": name or self.vendor,
            "type": self.vendor,
            "base_url": self.url,
            "auth": {"api_key": self.api_key},
        }

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints."""
        of_workflow_run = ROOT + "/workflow-runs/{run}"
        return (
            Route("jobs", "GET", ROOT + "/jobs", self._admitted(partial(self._job_list, workflows=False))),
            Route("job", "GET", ROOT + "/jobs/{job}", self._admitted(self._job)),
            Route("health", "GET", ROOT + "/jobs/{job}/health", self._admitted(self._health)),
            Route("stats", "GET", ROOT + "/stats", self._admitted(self._stats)),
            Route("runs", "GET", ROOT + "/runs", self._admitted(self._runs)),
            Route("dead_letters", "GET", ROOT + "/runs/dlq", self._admitted(self._dead_letters)),
            Route("export", "GET", ROOT + "/export/runs", self._admitted(self._export)),
            Route("run", "GET", ROOT + "/runs/{run}", self._admitted(self._run)),
            Route("workflows", "GET", ROOT + "/workflows", self._admitted(partial(self._job_list, workflows=True))),
            Route("workflow_runs", "GET", ROOT + "/workflow-runs", self._admitted(self._workflow_runs)),
            Route("workflow_run", "GET", of_workflow_run, self._admitted(self._workflow_run)),
            Route("steps", "GET", of_workflow_run + "/steps", self._admitted(self._steps)),
            Route("timeline", "GET", of_workflow_run + "/timeline", self._admitted(self._timeline)),
        )

    def error(self, status: int, message: str) -> Response:
        """Return an error in one of the vendor's four shapes."""
        return error_response(status, message)

    def admit(self, request: Request) -> Mapping[str, str]:  # noqa: ARG002  # the limits are for all endpoints
        """Apply the lock, the limit per address, and the limit per key. Every response shows the limits."""
        now = self.clock()
        if len(self._failed_sign_ins) == MAX_FAILED_SIGN_INS and self._failed_sign_ins[0] > now - SIGN_IN_PERIOD:
            wait = self._failed_sign_ins[0] + SIGN_IN_PERIOD - now
            raise Refused(429, ADDRESS_LIMIT, {"Retry-After": str(math.ceil(wait))})
        quotas: list[Quota] = []
        if self.options.address_requests_per_minute:
            quotas.append(self._address_limit.take(self.options.address_requests_per_minute))
            if not quotas[0].allowed:
                raise Refused(429, ADDRESS_LIMIT, {"Retry-After": str(math.ceil(quotas[0].reset))})
        plenty = Quota(allowed=True, limit=NO_LIMIT, remaining=NO_LIMIT - 1, reset=60.0)
        limit = self.options.requests_per_minute
        quotas.append(self._limit.take(limit) if limit else plenty)
        headers = {
            "X-RateLimit-Limit": ", ".join(str(quota.limit) for quota in quotas),
            "X-RateLimit-Remaining": ", ".join(str(quota.remaining) for quota in quotas),
            "X-RateLimit-Reset": str(math.ceil(now + quotas[-1].reset)),
        }
        if not quotas[-1].allowed:
            raise Refused(429, "too many requests", {**headers, "Retry-After": str(math.ceil(quotas[-1].reset))})
        return headers

    def _admitted(self, handler: Handler) -> Handler:
        """Return the handler with checks of the key and its scopes before it."""

        def admitted(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {self.api_key}":
                self._failed_sign_ins.append(self.clock())
                raise Refused(401, "invalid api key")
            scope = SCOPES[request.endpoint]
            if self.options.scopes and scope not in self.options.scopes:
                raise Refused(403, f"insufficient permissions: requires {scope}")
            if scope == "workflows:read" and not self.options.workflows:
                raise Refused(404, UNKNOWN_PATH)
            return handler(request)

        return admitted

    def _job_list(self, request: Request, *, workflows: bool) -> Response:
        row = workflow_row if workflows else job_row
        listed = [
            PagedRow(microseconds(JOBS_CREATED + number), job.job_id, partial(row, job, number, self.options.rows))
            for number, job in self._jobs_of_kind(request, workflows=workflows)
        ]
        return paged(request, listed, ResponseView(request.received), self._paging(hidden=0.0))

    def _jobs_of_kind(self, request: Request, *, workflows: bool) -> list[tuple[int, SimJob]]:
        """Return the jobs, or the workflows, with their numbers."""
        self._lives(self.view(request))
        numbered = enumerate(self.world.jobs())
        return [(number, job) for number, job in numbered if (job.job_id in self._workflows) is workflows]

    def _job(self, request: Request) -> Response:
        for number, job in self._jobs_of_kind(request, workflows=False):
            if plain_id(job.job_id) == request.parameters["job"]:
                return json_response(job_row(job, number, self.options.rows))
        raise Refused(404, "job not found")

    def _health(self, request: Request) -> Response:
        """Return the health of a job as the server calculates it; -1 for a job without runs."""
        window = request.query.get("window", "1d")
        if window not in WINDOWS:
            raise Refused(400, "window must be one of 1h, 1d, 7d, 30d")
        self._job(request)
        since = request.received - WINDOWS[window]
        words = [
            run_status(life, self.options.rows)
            for life in self._lives(self.view(request))
            if plain_id(life.run.job_id) == request.parameters["job"] and life.created >= since
        ]
        good, bad = words.count("completed"), sum(status in ("failed", "crashed", "timed_out") for status in words)
        rate = 100 * good / (good + bad) if good + bad else -1
        return json_response({"job_id": request.parameters["job"], "window": window, "health_score": rate})

    def _stats(self, request: Request) -> Response:
        words = [
            run_status(life, self.options.rows)
            for life in self._lives(self.view(request))
            if life.run.job_id not in self._workflows
        ]
        return json_response({status: words.count(status) for status in ("queued", "executing", "delayed")})

    def _lives(self, view: ResponseView) -> list[Life]:
        """Return the latest life of every visible run, and record which jobs are workflows."""
        shown = lives(view.see(self.world.runs(view.now - RETENTION, math.nextafter(view.now, math.inf))))
        self._workflows |= {life.run.job_id for life in shown if life.run.steps}
        return shown

    def _runs(self, request: Request) -> Response:
        return self._run_list(request, workflow=False)

    def _workflow_runs(self, request: Request) -> Response:
        return self._run_list(request, workflow=True)

    def _dead_letters(self, request: Request) -> Response:
        return self._run_list(request, workflow=False, status="dead_letter")

    def _run_list(self, request: Request, *, workflow: bool, status: str = "") -> Response:
        """Return runs of one kind and status. `statuses` is ignored, as by older servers."""
        view, wanted = self.view(request), status or request.query.get("status", "")
        words = (STATUSES_OF_WORKFLOWS if workflow else STATUSES) - self.options.unknown_words
        if wanted and wanted not in words:
            raise Refused(400, "status is invalid")
        listed = [
            PagedRow(microseconds(life.created), life.run.run_id, partial(self._row, life, workflow=workflow))
            for life in self._candidates(request, view, workflow=workflow)
            if not wanted or self._status(life, workflow=workflow) == wanted
        ]
        return paged(request, listed, view, self._paging(hidden=self.options.hidden))

    def _candidates(self, request: Request, view: ResponseView, *, workflow: bool) -> Iterable[Life]:  # noqa: ARG002  # a hook for faster simulators
        """Return runs of one kind, among them all runs of the page."""
        return [life for life in self._lives(view) if (life.run.job_id in self._workflows) is workflow]

    def _status(self, life: Life, *, workflow: bool) -> str:
        return (workflow_status if workflow else run_status)(life, self.options.rows)

    def _row(self, life: Life, *, workflow: bool) -> object:
        return (workflow_run_row if workflow else run_row)(life, self.options.rows)

    def _paging(self, *, hidden: float) -> Paging:
        return Paging(bare=self.options.lists == "array", largest_body=self.options.largest_body, hidden=hidden)

    def _found(self, request: Request, *, workflow: bool) -> tuple[Life, ResponseView]:
        """Return the run of a path. Raises Refused 404 if it is unknown, not yet visible, or of the other kind."""
        view = self.view(request)
        for life in self._lives_of(request.parameters["run"], view):
            if (life.run.job_id in self._workflows) is workflow:
                return life, view
        raise Refused(404, "workflow run not found" if workflow else "run not found")

    def _lives_of(self, run_id: str, view: ResponseView) -> Sequence[Life]:
        """Return the run with this ID, if it is visible."""
        return [life for life in self._lives(view) if life.run.run_id == run_id]

    def _run(self, request: Request) -> Response:
        life, _ = self._found(request, workflow=False)
        return json_response(self._row(life, workflow=False))

    def _export(self, request: Request) -> Response:
        """Export the runs created between two times, both included, with outdated states."""
        if isinstance(self.options.export, int):
            raise Refused(self.options.export, "the export is not available")
        if request.query.get("format", "csv") != "csv":
            raise Refused(400, "format must be csv")
        view, since, until = self.view(request), time_of(request, "from"), time_of(request, "to")
        shown = [
            life
            for life in self._lives(view)
            if life.run.job_id not in self._workflows and since <= microseconds(life.created) <= until
        ]
        body = export_csv([] if self.options.export == "empty" else shown)
        if self.options.export == "cut":
            body = body[: int(len(body) * TRUNCATED_PART)]
        return Response(body=body, content_type="text/csv")

    def _workflow_run(self, request: Request) -> Response:
        life, _ = self._found(request, workflow=True)
        return json_response(self._row(life, workflow=True))

    def _steps(self, request: Request) -> Response:
        """Return the first steps. All steps share one creation time, so that no cursor reaches the others."""
        life, view = self._found(request, workflow=True)
        limit = limit_of(request)
        rows = [] if cursor_of(request) is not None else [step_row(life, step) for step in life.run.steps]
        shown = view.rows(rows[:limit])
        if self.options.lists == "array":
            return json_response(shown)
        return json_response({"data": shown, "has_more": len(rows) > limit})

    def _timeline(self, request: Request) -> Response:
        life, view = self._found(request, workflow=True)
        answer = timeline(life, [step_row(life, step) for step in life.run.steps], self.options.rows)
        steps = answer["steps"]
        return json_response({**answer, "steps": view.rows(steps) if isinstance(steps, list) else []})
