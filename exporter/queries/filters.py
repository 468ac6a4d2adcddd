"""Queries for jobs and runs; `exporter.queries.records` has the answers."""

import enum
from typing import Annotated, Literal

import msgspec

from exporter.model import Result, State

MAX_LIMIT = 500
"""The largest `limit` of a list."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class JobOrder(enum.StrEnum):
    """Orders of a list of jobs. Equal jobs are ordered by name; jobs without the value come last."""

    URGENCY = "urgency"
    """The most urgent `status` first."""
    NAME = "name"
    LAST_RUN = "last_run"
    """The latest end first."""
    LAST_SUCCESS = "last_success"
    """The oldest first."""
    STREAK = "streak"
    """The longest first."""
    DURATION = "duration"
    """The longest last run first."""
    NEXT_EXPECTED = "next_expected"
    """The earliest first."""


Status = Literal["", "failing", "overdue", "stale", "stuck", "disabled", "ok", "idle"]


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list; "" or None for any.

    Attributes:
        source: Name of the source.
        project: The label `project`.
        job_name: The label `job_name`.
        team: Team of the job.
        status: A value of `JobReport.status`.
        search: Part of a job's name, ID or project, in any letter case.
        order: Order of the list.
        limit: Jobs per page, at most 500.
        page: Number of the page, from 1.
        recent: Whether to include the latest completed runs of each job.
    """

    source: str = ""
    project: str | None = None
    job_name: str = ""
    team: str = ""
    status: Status = ""
    search: str = ""
    order: JobOrder = JobOrder.URGENCY
    limit: Limit = 100
    page: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    recent: bool = True


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list; "" or None for any.

    Attributes:
        source: Name of the source.
        project: The label `project`.
        job_name: The label `job_name`.
        result: Only completed runs with this result.
        state: Only active runs in this state.
        run_id: Only runs with exactly this ID, in any source.
        after: Only runs that completed (or, while active, began) at this time or later.
        before: Only runs that completed (or, while active, began) before this time.
        limit: Runs per page, at most 500.
        cursor: Start of the page: `RunList.cursor` of the page before, "" for the first.
    """

    source: str = ""
    project: str | None = None
    job_name: str = ""
    result: Result | None = None
    state: State | None = None
    run_id: str = ""
    after: float | None = None
    before: float | None = None
    limit: Limit = 100
    cursor: str = ""
