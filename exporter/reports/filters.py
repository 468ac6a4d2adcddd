"""What can be asked for of jobs and runs: the questions to which `exporter.reports.records` has the answers."""

import enum
from typing import Annotated, Literal

import msgspec

from exporter.model import Result, State

MOST = 500
"""The largest `limit` of a list."""


Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST)]


class JobOrder(enum.StrEnum):
    """Orders of a list of jobs; jobs that are equal in it come by name, and those of which it is not known last."""

    URGENCY = "urgency"
    """By `status`, the most urgent first."""
    NAME = "name"
    LAST_RUN = "last_run"
    """The latest end first."""
    LAST_SUCCESS = "last_success"
    """The oldest first."""
    STREAK = "streak"
    """The longest first."""
    DURATION = "duration"
    """Of the last run, the longest first."""
    NEXT_EXPECTED = "next_expected"
    """The earliest first."""


Status = Literal["", "failing", "overdue", "stale", "stuck", "disabled", "ok", "idle"]


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs, "" or None for any.

    Attributes:
        source: The source's name.
        project: The label.
        job_name: The label.
        team: Who looks after it.
        status: A word of `JobReport.status`, "" for any.
        search: Part of a job's name, id or project, letter case aside.
        order: In which order.
        limit: Jobs on a page, at most MOST.
        page: Which page, from 1.
        recent: Whether each job's latest ended runs come along.
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


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs, "" or None for any; `source`, `project` and `job_name` are labels.

    Attributes:
        source: The source's name.
        project: The label.
        job_name: The label.
        result: Ended runs with this result only.
        state: Open runs in this state only.
        run_id: The run with exactly this id, of each source.
        after: Ended (or, open, begun) at this instant or later.
        before: Ended (or, open, begun) before this instant.
        limit: Runs on a page, at most MOST.
        cursor: Where the page begins: `RunList.cursor` of the page before, "" for the first.
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
