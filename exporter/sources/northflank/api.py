"""Northflank's API: its paths, and parsers of its answers."""

import msgspec

from exporter.errors import SchemaError
from exporter.model import Result, Run, State
from exporter.sources.northflank.jobs import NorthflankJob
from exporter.sources.northflank.page_cursor import NorthflankPage
from exporter.sources.northflank.request_queue import JobSchedule
from exporter.sources.payload import ABSENT, OBJECT, ROWS, decode, decoded, identity, scalar, text
from exporter.sources.rest import StatusTable, look_up, seconds_between
from exporter.times import parse_timestamp

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
CRON = "cron"
BOOL: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)


# The counts say nothing about the state: a successful run may show 0 succeeded.
class NorthflankRunFields(msgspec.Struct, kw_only=True, rename="camel"):
    """The fields used of a run, not yet decoded."""

    id: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    concluded: msgspec.Raw = ABSENT
    failed: msgspec.Raw = ABSENT
    backoff_limit: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    concluded_at: msgspec.Raw = ABSENT


class NorthflankJobFields(msgspec.Struct, kw_only=True, rename="camel"):
    """The fields used of a job or a project, not yet decoded."""

    id: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    job_type: msgspec.Raw = ABSENT
    suspended: msgspec.Raw = ABSENT


RUN_FIELDS: msgspec.json.Decoder[NorthflankRunFields] = msgspec.json.Decoder(NorthflankRunFields)
JOB_FIELDS: msgspec.json.Decoder[NorthflankJobFields] = msgspec.json.Decoder(NorthflankJobFields)


def parse_page(body: bytes, key: str) -> NorthflankPage:
    """Return a page of the list at `data.<key>`.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It has no such list.
    """
    fields = decode(body, OBJECT)
    data = decoded(fields.get("data", ABSENT), OBJECT) or {}
    rows = decoded(data.get(key, ABSENT), ROWS)
    if rows is None:
        raise SchemaError("the answer is an object without the expected list")
    pagination = decoded(fields.get("pagination", ABSENT), OBJECT) or {}
    more = decoded(pagination.get("hasNextPage", ABSENT), BOOL) is True
    return NorthflankPage(rows=rows, more=more, cursor=text(pagination.get("cursor", ABSENT)))


def parse_project(raw: msgspec.Raw) -> str:
    """Return the ID of a project, "" if the row is not a project."""
    loose = decoded(raw, JOB_FIELDS)
    return "" if loose is None else identity(loose.id)


def parse_job(raw: msgspec.Raw, project: str) -> NorthflankJob | None:
    """Return a job of a project's list, None if the row is not a job."""
    loose = decoded(raw, JOB_FIELDS)
    slug = "" if loose is None else identity(loose.id)
    if loose is None or not slug:
        return None
    cron = text(loose.job_type).casefold() == CRON
    suspended = decoded(loose.suspended, BOOL)
    # A job with a schedule is enabled unless suspended.
    if cron and suspended is None:
        suspended = False
    return NorthflankJob(
        project=project,
        slug=slug,
        name=text(loose.name) or slug,
        cron=cron,
        enabled=None if suspended is None else not suspended,
    )


def parse_schedule(body: bytes) -> JobSchedule:
    """Return the schedule in a job's settings.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a job.
    """
    data = decoded(decode(body, OBJECT).get("data", ABSENT), OBJECT)
    if data is None or not text(data.get("id", ABSENT)):
        raise SchemaError("the answer is not a job: it has no id")
    settings = decoded(data.get("settings", ABSENT), OBJECT) or {}
    cron = decoded(settings.get("cron", ABSENT), OBJECT) or {}
    zone = text(cron.get("timezone", ABSENT), cron.get("timeZone", ABSENT))
    return JobSchedule(text(cron.get("schedule", ABSENT)), zone)


def parse_run(body: bytes, job_id: str, statuses: StatusTable, run_id: str = "") -> Run:
    """Return one run; `run_id` "" accepts any.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not this run.
    """
    run = to_run(decode(body, OBJECT).get("data", ABSENT), job_id, statuses)
    if run is None:
        raise SchemaError("the answer is not a run: it has no id")
    if run_id not in ("", run.run_id):
        raise SchemaError(f"GET {RUN}: the answer is another run")
    return run


def to_run(raw: msgspec.Raw, job_id: str, statuses: StatusTable) -> Run | None:
    """Return the run of a row, None if it has no ID.

    The status decides. With an unknown status, a run that is concluded or has an end has ended as unknown. A completed
    run may lack its end, and then has no duration either.
    """
    loose = decoded(raw, RUN_FIELDS)
    run_id = "" if loose is None else identity(loose.id)
    if loose is None or not run_id:
        return None
    meaning, unmapped = look_up(text(loose.status), statuses)
    start, end = parse_timestamp(scalar(loose.started_at)), parse_timestamp(scalar(loose.concluded_at))
    if meaning is None and (end is not None or decoded(loose.concluded, BOOL) is True):
        meaning = Result.UNKNOWN
    if not isinstance(meaning, Result):
        return Run(run_id=run_id, job_id=job_id, state=meaning, unmapped=unmapped, start=start)
    retries = _retries(loose, meaning)
    return Run(
        run_id=run_id,
        job_id=job_id,
        result=meaning,
        unmapped=unmapped,
        start=start,
        end=end,
        duration=seconds_between(start, end),
        retries=retries,
        recovered=meaning is Result.SUCCESS and retries > 0,
    )


def _retries(loose: NorthflankRunFields, result: Result) -> int:
    # Each failed attempt of a successful run was followed by another; of a failed run all but the last.
    # The job's limit caps them, as the vendor does not say that `failed` counts attempts alone.
    failed, limit = _count(loose.failed), _count(loose.backoff_limit)
    retries = max(0, (failed or 0) - (result is not Result.SUCCESS))
    return retries if limit is None else min(retries, limit)


def _count(raw: msgspec.Raw) -> int | None:
    """Return a whole number that is not negative."""
    number = scalar(raw)
    return int(number) if isinstance(number, int | float) and 0 <= number < 2**31 else None
