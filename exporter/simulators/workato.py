"""Workato's API for customers' recipes and jobs: as strict as the real API if that is known."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Unpack

import msgspec

from exporter.model import Result
from exporter.simulators.message import Handler, Refused, Request, Response, Route, enveloped, json_response
from exporter.simulators.rate import FixedWindow
from exporter.simulators.response_view import ResponseView, Seen
from exporter.simulators.server import Place, Simulator
from exporter.simulators.workato_query import (
    FILTERS,
    JOB_LISTS,
    LISTS,
    RECIPE_LISTS,
    check_parameters,
    filtered_recipes,
    list_page,
)
from exporter.simulators.workato_rows import (
    Tally,
    WorkatoShape,
    account_row,
    job_detail,
    job_row,
    number_of,
    project_row,
    recipe_row,
    shown_id,
    status_of,
    user_row,
)
from exporter.simulators.world import SimJob, World

TOKEN = "wrkaus-simulated-token-2718"
USERS = "/api/managed_users"
CUSTOMER = USERS + "/{customer}"
DAY = 86400.0


class WorkatoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits, and behavior that the vendor does not document.

    Attributes:
        mode: The API for which the token is valid.
        page_size: Jobs per page. The request cannot change it.
        retention: Seconds for which a job is kept after its end, or after its creation while it is active.
        counts: Whether recipes count all jobs that ever completed, or only jobs that are kept.
        counts_late: Seconds by which the counts lag behind the lists.
        order: Whether the list of jobs starts with the newest creation or with the newest end.
        unreadable: Response status of customers that cannot be read, by external ID.
        forbidden: Short names of endpoints that return 403.
        jobs_per_minute: Limit of requests for lists of jobs and single jobs; None for the mode's limit, 0 for no limit.
        recipes_per_minute: The same for lists of recipes.
        users_per_minute: The same for lists of managed users.
        ignored: Parameters that are ignored, such as the number of a page.
        retry_after: Whether a 429 has a `Retry-After`.
        rows: The shape of rows.
    """

    mode: Literal["embedded", "developer"] = "embedded"
    page_size: int = 25
    retention: float = 30 * DAY
    counts: Literal["lifetime", "kept"] = "lifetime"
    counts_late: float = 0.0
    order: Literal["creation", "end"] = "creation"
    unreadable: Mapping[str, int] = {}
    forbidden: frozenset[str] = frozenset()
    jobs_per_minute: int | None = None
    recipes_per_minute: int | None = None
    users_per_minute: int | None = None
    ignored: frozenset[str] = frozenset()
    retry_after: bool = False
    rows: WorkatoShape = WorkatoShape()

    def limit(self, kind: str) -> int:
        """Return the requests per minute of a kind; 0 for no limit."""
        own = {"jobs": self.jobs_per_minute, "recipes": self.recipes_per_minute, "users": self.users_per_minute}[kind]
        return LIMITS[self.mode][kind] if own is None else own


LIMITS: Mapping[str, Mapping[str, int]] = {
    "embedded": {"jobs": 1000, "recipes": 2000, "users": 60},
    "developer": {"jobs": 60, "recipes": 60, "users": 60},
}
KINDS: Mapping[str, str] = {"users": "users", "jobs": "jobs", "job": "jobs"}
"""The limit of an endpoint. All other endpoints have the limit of recipes."""


class WorkatoSimulator(Simulator):
    """The API of one workspace: projects of the world are customers. `options` may be replaced while it runs."""

    vendor: ClassVar[str] = "workato"
    options: WorkatoOptions
    demo_id_digits: ClassVar[int] = 24

    def __init__(
        self,
        world: World,
        clock: Callable[[], float] = time.time,
        *,
        token: str = TOKEN,
        options: WorkatoOptions = WorkatoOptions(),  # noqa: B008  # frozen
        **place: Unpack[Place],
    ) -> None:
        super().__init__(world, clock, **place)
        self.token = token
        self.options = options
        self._windows = {kind: FixedWindow(60.0, clock) for kind in LIMITS["embedded"]}

    def source_config(self, name: str = "") -> dict[str, object]:
        """Return the block under `sources:` with which the exporter reads this simulator."""
        return {
            "name": name or self.vendor,
            "type": self.vendor,
            "mode": self.options.mode,
            "base_url": self.url,
            "auth": {"api_token": self.token},
        }

    def routes(self) -> Sequence[Route]:
        """Return the vendor's endpoints. Endpoints of a customer and of the own workspace have equal short names."""
        return (
            Route("users", "GET", USERS, self._admitted(self._users)),
            Route("projects", "GET", "/api/projects", self._admitted(self._projects)),
            Route("me", "GET", "/api/users/me", self._admitted(self._me)),
            *(
                Route(name, "GET", root + template, self._admitted(handler))
                for root in (CUSTOMER, "/api")
                for name, template, handler in (
                    ("recipes", "/recipes", self._recipes),
                    ("recipe", "/recipes/{recipe}", self._recipe),
                    ("jobs", "/recipes/{recipe}/jobs", self._jobs),
                    ("job", "/recipes/{recipe}/jobs/{job}", self._job),
                )
            ),
        )

    def admit(self, request: Request) -> Mapping[str, str]:
        """Apply the rate limits."""
        kind = KINDS.get(request.endpoint, "recipes")
        limit = self.options.limit(kind)
        quota = self._windows[kind].take(limit) if limit else None
        if quota is not None and not quota.allowed:
            headers = {"Retry-After": str(int(quota.reset) + 1)} if self.options.retry_after else {}
            raise Refused(429, "Too many requests", headers)
        return {}

    def _admitted(self, handler: Handler) -> Handler:
        """Return the handler with checks of the token, its mode and the permissions before it."""

        def admitted(request: Request) -> Response:
            if request.headers.get("authorization", "") != f"Bearer {self.token}":
                raise Refused(401, "Unauthorized")
            if request.endpoint in self.options.forbidden:
                raise Refused(403, "The role of this API client lacks a permission")
            embedded = request.template.startswith(USERS)
            if embedded != (self.options.mode == "embedded"):
                raise Refused(404, "Not found")
            kept = {name: value for name, value in request.query.items() if name not in self.options.ignored}
            return handler(msgspec.structs.replace(request, query=kept))

        return admitted

    def _users(self, request: Request) -> Response:
        first, size = list_page(request, LISTS)
        jobs = self.world.jobs()
        active = {job.project: sum(one.enabled and one.project == job.project for one in jobs) for job in jobs}
        projects = sorted(active, key=number_of)[first : first + size]
        rows = [user_row(project, active[project], self.options.rows) for project in projects]
        return json_response(enveloped(rows, self.options.rows.users_envelope))

    def _own_jobs(self, request: Request) -> list[SimJob]:
        """Return the recipes of a path's customer or of the workspace. Raises Refused if they cannot be read."""
        jobs = self.world.jobs()
        customer = request.parameters.get("customer")
        if customer is None:
            return list(jobs)
        found = [job for job in jobs if customer in (str(number_of(job.project)), f"E{job.project}")]
        if not found:
            raise Refused(404, "Not found")
        status = self.options.unreadable.get(found[0].project)
        if status is not None:
            raise Refused(status, "This customer is not accessible")
        return found

    def _projects(self, request: Request) -> Response:
        first, size = list_page(request, LISTS)
        return json_response([project_row(self.options.rows)][first : first + size])

    def _me(self, _request: Request) -> Response:
        return json_response(account_row(self.options.rows))

    def _recipes(self, request: Request) -> Response:
        first, size = list_page(request, RECIPE_LISTS)
        jobs = filtered_recipes(request, self._own_jobs(request))
        view, code = self.view(request), request.query.get("exclude_code") != "true"
        rows = [self._recipe_row(job, view, code=code) for job in jobs[first : first + size]]
        for row in rows if "tags" in request.query.get("includes[]", "") else ():
            row["tags"] = []
        key = self.options.rows.recipes_envelope
        if key is None:
            key = "result" if self.options.mode == "embedded" else "items"
        return json_response(enveloped(view.rows(rows), key))

    def _recipe(self, request: Request) -> Response:
        return json_response(self._recipe_row(self._found_job(request), self.view(request), code=True))

    def _recipe_row(self, job: SimJob, view: ResponseView, *, code: bool) -> dict[str, object]:
        return recipe_row(job, self._tally(job, view), self.options.rows, code=code)

    def _tally(self, job: SimJob, view: ResponseView) -> Tally:
        """Return the counts that a recipe shows of its jobs."""
        now = view.now - self.options.counts_late
        seen = [one for one in self._seen(job, view, self.options.counts) if one.run.start <= min(one.now, now)]
        ended = [one for one in seen if _has_ended(Seen(one.run, min(one.now, now)))]
        last = max((one.run.start for one in seen), default=None)
        return Tally(len(ended), self._succeeded(ended), last)

    def _succeeded(self, ended: Iterable[Seen]) -> int:
        return sum(status_of(one, self.options.rows) == "succeeded" for one in ended)

    def _seen(self, job: SimJob, view: ResponseView, which: Literal["lifetime", "kept"]) -> list[Seen]:
        """Return a recipe's created jobs, oldest first: all, or those that are kept."""
        kept = view.now - self.options.retention
        # An active job is kept, even if it was created long ago.
        runs = self.world.runs(0.0 if which == "lifetime" else kept, view.now + 1.0, job.job_id)
        seen = view.see(runs)
        if which == "lifetime":
            return seen
        return [one for one in seen if _kept_from(one) >= kept]

    def _found_job(self, request: Request) -> SimJob:
        wanted = request.parameters["recipe"]
        job = next((job for job in self._own_jobs(request) if str(number_of(job.job_id)) == wanted), None)
        if job is None:
            raise Refused(404, "Not found")
        return job

    def _jobs(self, request: Request) -> Response:
        job, options = self._found_job(request), self.options
        check_parameters(request, JOB_LISTS)
        view = self.view(request)
        tally, scope, page = self._listing(request, job, view)
        rows = [self._row(one, job) for one in page]
        answer: dict[str, object] = {
            "job_succeeded_count": tally.succeeded,
            "job_failed_count": tally.ended - tally.succeeded,
            "job_count": tally.ended,
        }
        if options.rows.scope_count:
            answer["job_scope_count"] = scope
        return json_response(answer | {"items": view.rows(rows)})

    def _listing(self, request: Request, job: SimJob, view: ResponseView) -> tuple[Tally, int, list[Seen]]:
        """Return the counts of all kept jobs, the number of jobs that pass the filter, and a page of these jobs."""
        seen = self._seen(job, view, "kept")
        ended = [one for one in seen if _has_ended(one)]
        wanted = self._filtered(request, sorted(seen, key=self._sort_key, reverse=True))
        return Tally(len(ended), self._succeeded(ended)), len(wanted), self._page(request, wanted)

    def _row(self, seen: Seen, job: SimJob) -> object:
        return job_row(seen, shown_id(job.job_id, self.options.rows), self.options.rows)

    def _filtered(self, request: Request, seen: list[Seen]) -> list[Seen]:
        status = request.query.get("status")
        if status is not None:
            if status not in FILTERS:
                raise Refused(400, "status must be succeeded, failed or pending")
            seen = [one for one in seen if status_of(one, WorkatoShape()) == status]
        return [one for one in seen if one.run.attempts > 1] if request.query.get("rerun_only") == "true" else seen

    def _page(self, request: Request, seen: list[Seen]) -> list[Seen]:
        """Return the jobs that are older than the offset, newest first. With `prev=true`, return newer jobs."""
        offset, size = self._offset(request), self.options.page_size
        if offset is None:
            return seen[:size]
        place = self._sort_key(offset)
        if request.query.get("prev") == "true":
            return [one for one in seen if self._sort_key(one) > place][-size:]
        return [one for one in seen if self._sort_key(one) < place][:size]

    def _offset(self, request: Request) -> Seen | None:
        """Return the job at which the page begins. Raises Refused 404 for an unknown one."""
        offset = request.query.get("offset_job_id")
        if offset is None:
            return None
        run = self.world.find(offset, request.received)
        if run is None:
            raise Refused(404, "Not found")
        return Seen(run, request.received)

    def _sort_key(self, seen: Seen) -> tuple[float, str]:
        by_end = self.options.order == "end" and _has_ended(seen)
        return (seen.run.end if by_end else seen.run.created) or 0.0, seen.run.run_id

    def _job(self, request: Request) -> Response:
        job = self._found_job(request)
        view = self.view(request)
        run = self.world.find(request.parameters["job"], view.now)
        seen = view.see([run] if run is not None and run.job_id == job.job_id else [])
        if not seen or _kept_from(seen[0]) < view.now - self.options.retention:
            raise Refused(404, "Not found")
        return json_response(job_detail(seen[0], shown_id(job.job_id, self.options.rows), self.options.rows))


def _has_ended(seen: Seen) -> bool:
    return isinstance(seen.run.at(seen.now), Result)


def _kept_from(seen: Seen) -> float:
    """Return the time from which the retention of a job counts."""
    end = seen.run.end if _has_ended(seen) else None
    return seen.run.created if end is None else end
