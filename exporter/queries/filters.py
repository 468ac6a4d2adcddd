"""Parameters of queries. For the results see `exporter.queries.records`."""

import enum
from typing import Annotated, Literal

import msgspec

from exporter.model import Result, State

MAX_LIMIT = 500
"""The largest `limit` of a list."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


def doc(text: str) -> msgspec.Meta:
    """Return an annotation that describes a field in the OpenAPI document."""
    return msgspec.Meta(description=text)


class JobOrder(enum.StrEnum):
    """Order of a list of jobs. Jobs with equal values are sorted by name; jobs without a value come last."""

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
    """Selects jobs to list. "" and None select any."""

    source: Annotated[str, doc("Name of the source.")] = ""
    project: Annotated[str | None, doc("The label `project`.")] = None
    job_name: Annotated[str, doc("The label `job_name`.")] = ""
    team: Annotated[str, doc("Team of the job.")] = ""
    status: Annotated[Status, doc("A value of `JobReport.status`.")] = ""
    search: Annotated[str, doc("Part of a job's name, ID or project, in any letter case.")] = ""
    order: Annotated[JobOrder, doc("Order of the list.")] = JobOrder.URGENCY
    limit: Annotated[Limit, doc("Jobs per page, at most 500.")] = 100
    page: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="Number of the page, from 1.")] = 1
    recent: Annotated[bool, doc("Whether to include the latest completed runs of each job.")] = True


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Selects runs to list. "" and None select any."""

    source: Annotated[str, doc("Name of the source.")] = ""
    project: Annotated[str | None, doc("The label `project`.")] = None
    job_name: Annotated[str, doc("The label `job_name`.")] = ""
    result: Annotated[Result | None, doc("Only completed runs with this result.")] = None
    state: Annotated[State | None, doc("Only active runs in this state.")] = None
    run_id: Annotated[str, doc("Only runs with this ID, in any source.")] = ""
    after: Annotated[float | None, doc("Earliest end of completed runs and start of active runs.")] = None
    before: Annotated[float | None, doc("Latest end of completed runs and start of active runs, exclusive.")] = None
    limit: Annotated[Limit, doc("Runs per page, at most 500.")] = 100
    cursor: Annotated[str, doc('`RunList.cursor` of the previous page; "" for the first page.')] = ""
