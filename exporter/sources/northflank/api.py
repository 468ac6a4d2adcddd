"""Northflank's API: its paths, and parsers of its responses.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

from collections.abc import Sequence

import msgspec

from exporter.errors import SchemaError
from exporter.model import Job, Result, Run, State
from exporter.sources.payload import Fields, Scalar
from exporter.sources.rest import StatusTable, look_up, seconds_between

PROJECTS = "/projects"
JOBS = "/projects/{projectId}/jobs"
JOB = JOBS + "/{jobId}"
RUNS = JOB + "/runs"
RUN = RUNS + "/{runId}"

STATUSES: StatusTable = {
    "running": State.EXECUTING,
    "success": Result.SUCCESS,
    "failed": Result.FAILURE,
}


class NorthflankPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list: its rows as JSON, whether more pages follow, and the cursor of the next page."""

    rows: Sequence[msgspec.Raw]
    more: bool
    cursor: str


class JobSchedule(msgspec.Struct, frozen=True):
    """A job's cron expression and its time zone; "" if it has none."""

    expression: str = ""
    timezone: str = ""


class NorthflankJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a project's list.

    Attributes:
        slug: Its ID, which is unique in the project.
        cron: Whether it has a schedule.
        enabled: Whether it may run; None for a job that cannot be suspended.
    """

    project: str
    slug: str
    name: str
    cron: bool
    enabled: bool | None

    @property
    def job_id(self) -> str:
        """Return the job's ID, which is unique in the account."""
        return f"{self.project}/{self.slug}"

    def job(self, schedule: JobSchedule) -> Job:
        """Return the job for the ledger, with its project as scope."""
        return Job(
            job_id=self.job_id,
            name=self.name,
            project=self.project,
            scope=self.project,
            schedule=schedule.expression,
            timezone=schedule.timezone,
            enabled=self.enabled,
        )


def parse_page(body: bytes, key: str) -> NorthflankPage:
    """Return a page of the list at `data.<key>`."""
    fields = Fields.of_body(body)
    rows = fields.object("data").rows(key)
    if rows is None:
        raise SchemaError("the response is an object without the expected list")
    pagination = fields.object("pagination")
    cursor, more = pagination.text("cursor"), pagination.flag("hasNextPage")
    return NorthflankPage(rows=rows, more=bool(cursor) if more is None else more, cursor=cursor)


def parse_project(raw: msgspec.Raw) -> str:
    """Return the ID of a project; "" if the row is not a project."""
    return Fields.of(raw).identity("id")


def parse_job(raw: msgspec.Raw, project: str) -> NorthflankJob | None:
    """Return a job of a project's list; None if the row is not a job."""
    fields = Fields.of(raw)
    slug = fields.identity("id")
    if not slug:
        return None
    cron, suspended = fields.text("jobType").casefold() == "cron", fields.flag("suspended")
    # Only jobs with a schedule can be suspended.
    enabled = None if suspended is None and not cron else not suspended
    return NorthflankJob(project=project, slug=slug, name=fields.name("name") or slug, cron=cron, enabled=enabled)


def parse_schedule(body: bytes) -> JobSchedule:
    """Return the schedule in a job's settings."""
    job = Fields.of_body(body).object("data")
    if not job.text("id"):
        raise SchemaError("the response is not a job: it has no id")
    cron = job.object("settings").object("cron")
    return JobSchedule(cron.text("schedule"), cron.text("timezone"))


def parse_run(body: bytes, job_id: str, statuses: StatusTable, run_id: str = "") -> Run:
    """Return a run. `run_id` "" accepts any run."""
    run = _run(Fields.of_body(body).object("data"), job_id, statuses)
    if run is None:
        raise SchemaError("the response is not a run: it has no id")
    if run_id not in ("", run.run_id):
        raise SchemaError(f"GET {RUN}: the response is another run")
    return run


def to_run(raw: msgspec.Raw, job_id: str, statuses: StatusTable) -> Run | None:
    """Return the run of a row; None if it has no ID.

    The status decides whether the run has completed. A run with an unmapped status has completed, as unknown, if it is
    concluded or has an end. A completed run may lack its end, and then has no duration.
    """
    return _run(Fields.of(raw), job_id, statuses)


def _run(fields: Fields, job_id: str, statuses: StatusTable) -> Run | None:
    # The row's counts of attempts are not reliable: a successful run may show 0 succeeded.
    run_id = fields.identity("id")
    if not run_id:
        return None
    start, end = fields.time("startedAt"), fields.time("concludedAt")
    result, state, unmapped = look_up(
        fields.text("status"), statuses, ended=end is not None or fields.flag("concluded") is True
    )
    if result is None:
        return Run(run_id=run_id, job_id=job_id, state=state, unmapped=unmapped, start=start)
    retries = _retries(fields, result)
    return Run(
        run_id=run_id,
        job_id=job_id,
        result=result,
        unmapped=unmapped,
        start=start,
        end=end,
        duration=seconds_between(start, end),
        retries=retries,
        recovered=result is Result.SUCCESS and retries > 0,
    )


def _retries(fields: Fields, result: Result) -> int:
    # Each failed attempt was followed by another attempt, except the last one of a failed run. The vendor does not say
    # that `failed` counts only attempts, so the job's limit of retries is the maximum.
    failed, limit = _count(fields.scalar("failed")), _count(fields.scalar("backoffLimit"))
    retries = max(0, (failed or 0) - (result is not Result.SUCCESS))
    return retries if limit is None else min(retries, limit)


def _count(number: Scalar) -> int | None:
    """Return a number as an integer; None if it is negative, too large, or not a number."""
    return int(number) if isinstance(number, int | float) and 0 <= number < 2**31 else None
