"""Requests to Northflank's API."""

import itertools
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from exporter.client.client import Client
from exporter.config.source import MINUTE
from exporter.errors import SchemaError
from exporter.model import Run
from exporter.sources.northflank.api import (
    JOB,
    RUN,
    RUNS,
    JobSchedule,
    NorthflankJob,
    parse_page,
    parse_run,
    parse_schedule,
    to_run,
)
from exporter.sources.northflank.page_cursor import MAX_PAGES, PageCursor
from exporter.sources.payload import usable
from exporter.sources.rest import PageGuard, StatusTable, path
from exporter.sources.view import View

PAGE_SIZE = 100
# A request that would wait for the budget longer than this fraction of the interval is left to the next poll.
MAX_WAIT_SHARE = 0.2


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
        for number in itertools.count(1):
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
