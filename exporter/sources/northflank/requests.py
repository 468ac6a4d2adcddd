"""Requests to Northflank's API, and the position in the pages of a list."""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import count, pairwise

import msgspec

from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.errors import SchemaError
from exporter.model import Run, one_row_per_run
from exporter.sources.northflank.api import (
    JOB,
    RUN,
    RUNS,
    JobSchedule,
    NorthflankJob,
    NorthflankPage,
    parse_page,
    parse_run,
    parse_schedule,
    to_run,
)
from exporter.sources.paging import PageGuard
from exporter.sources.payload import usable
from exporter.sources.rest import StatusTable, path
from exporter.sources.view import View

PAGE_SIZE = 100
# The next poll sends requests that would wait for the budget longer than this fraction of the interval.
MAX_WAIT_SHARE = 0.2
MAX_PAGES = 100
"""Maximum number of pages that are requested of one list."""

# A list counts as newest first if at most this fraction of neighbors on its first page are in the wrong order.
MAX_MISORDERED = 0.25

KnownIds = Callable[[Collection[str]], Collection[str]]
"""Returns which of these runs are in the state."""


class PageCursor(msgspec.Struct, kw_only=True):
    """Reads the pages of a job's runs. It ends at the first page with known runs, or with a run from before `floor`.

    Attributes:
        began: Time of the first request.
        first_page: Hash of the first page. If it is the same at the next read, nothing has changed.
        unread_before: Runs that started before this time may be new and unread; None if all new runs were read.
    """

    began: float
    floor: float
    runs: dict[str, Run] = {}
    invalid: int = 0
    pages: int = 0
    cursor: str = ""
    first_page: bytes = b""
    newest_first: bool = True
    unread_before: float | None = None
    guard: PageGuard = msgspec.field(default_factory=lambda: PageGuard("the runs of a job", MAX_PAGES + 1))

    @property
    def complete(self) -> bool:
        """Return whether the job counts as read. It also does if its list is newest first and older runs are lost."""
        return self.newest_first or self.unread_before is None

    def add(self, page: NorthflankPage, runs: Sequence[Run], known: KnownIds) -> bool:
        """Add a page. Return whether to request another page. Raises SchemaError if the list does not end."""
        fresh = {run.run_id for run in runs} - self.runs.keys()
        shown = [self.runs[run.run_id] for run in runs if run.run_id in self.runs]
        self.runs.update((run.run_id, run) for run in one_row_per_run([*shown, *runs]))
        self.invalid += len(page.rows) - len(runs)
        self.pages, self.cursor = self.pages + 1, page.cursor
        if self.pages == 1:
            self.newest_first = is_newest_first(runs)
        if not page.more:
            return False
        if not fresh:
            raise SchemaError("the runs of a job: the list does not end: a page without a new run is not the last")
        self.guard.check(fresh, page.cursor or None)
        if self.pages < MAX_PAGES and not (self.newest_first and self._ends_with(runs, known)):
            return True
        if not known(fresh):
            starts = (run.start for run in self.runs.values() if run.start is not None)
            self.unread_before = min(starts, default=self.began)
        return False

    def _ends_with(self, runs: Sequence[Run], known: KnownIds) -> bool:
        too_old = any(run.start is not None and run.start < self.floor for run in runs)
        return too_old or bool(known([run.run_id for run in runs]))


def is_newest_first(runs: Sequence[Run]) -> bool:
    """Return whether the runs of a page are newest first, except for a few neighbors."""
    starts = [run.start for run in runs if run.start is not None]
    pairs = [(one, other) for one, other in pairwise(starts) if one != other]
    return sum(one < other for one, other in pairs) <= MAX_MISORDERED * len(pairs)


class NorthflankApi:
    """Sends requests and parses their responses."""

    def __init__(self, client: Client, statuses: StatusTable, poll_interval: float) -> None:
        self._client = client
        self._statuses = statuses
        self._poll_interval = poll_interval

    def may_send(self, view: View) -> bool:
        """Return whether the time and the budget of this poll allow another request."""
        return not view.out_of_time() and self._client.wait() <= MAX_WAIT_SHARE * self._poll_interval

    def list(self, endpoint: str, key: str, **parts: str) -> list[msgspec.Raw]:
        """Return all rows of a list, from all its pages."""
        rows: dict[bytes, msgspec.Raw] = {}
        cursor, guard = "", PageGuard(f"GET {endpoint}", MAX_PAGES)
        for number in count(1):
            page = parse_page(self._get(endpoint, _page_params(number, cursor), **parts), key)
            rows.update((bytes(row), row) for row in page.rows)
            if not page.more:
                break
            if not page.rows:
                raise SchemaError(f"GET {endpoint}: the list does not end: an empty page is not the last")
            guard.check([bytes(row) for row in page.rows], page.cursor or None)
            cursor = page.cursor
        return list(rows.values())

    def next_page(self, job: NorthflankJob, cursor: PageCursor, view: View) -> bool:
        """Read the next page of a job's runs. Return whether to read another page."""
        params = _page_params(cursor.pages + 1, cursor.cursor)
        body = self._get(RUNS, params, projectId=job.project, jobId=job.slug)
        page = parse_page(body, "runs")
        first = not cursor.pages
        runs = usable(page.rows, lambda raw: to_run(raw, job.job_id, self._statuses), "a run", required=first)
        if first:
            cursor.first_page = blake2b(body, digest_size=16).digest()
        return cursor.add(page, runs, view.known)

    def run(self, project: str, slug: str, run_id: str) -> Run:
        """Return a run by its ID."""
        body = self._get(RUN, projectId=project, jobId=slug, runId=run_id)
        return parse_run(body, f"{project}/{slug}", self._statuses, run_id)

    def schedule(self, job: NorthflankJob) -> JobSchedule:
        """Return a job's schedule, which the project's list of jobs does not contain."""
        return parse_schedule(self._get(JOB, projectId=job.project, jobId=job.slug))

    def _get(self, endpoint: str, params: Mapping[str, str | int] | None = None, **parts: str) -> bytes:
        patience = max(self._poll_interval, MINUTE)
        return self._client.get(path(endpoint, **parts), endpoint=endpoint, params=params, patience=patience)


def _page_params(number: int, cursor: str) -> dict[str, str | int]:
    """Return the query parameters of a page. Without a cursor, pages are numbered from 1."""
    params: dict[str, str | int] = {"per_page": PAGE_SIZE}
    if cursor:
        params["cursor"] = cursor
    elif number > 1:
        params["page"] = number
    return params
