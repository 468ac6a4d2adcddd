"""Strait's API: its paths, and parsers of its responses. A run's payload and result are never decoded.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, Step
from exporter.sources.payload import MAX_ID_LENGTH, Fields, decode, usable
from exporter.sources.rest import StatusTable, look_up, path, seconds_between
from exporter.sources.source import StepLog

RUNS = "/runs"
RUN = "/runs/{runId}"
JOBS = "/jobs"
WORKFLOWS = "/workflows"
WORKFLOW_RUNS = "/workflow-runs"
WORKFLOW_RUN = "/workflow-runs/{workflowRunId}"
STEPS = WORKFLOW_RUN + "/steps"
TIMELINE = WORKFLOW_RUN + "/timeline"
EXPORT = "/export/runs"
# Prefix of the job IDs of workflows. A job and a workflow may have the same ID.
WORKFLOW = "workflow:"

EXPIRED, COMPENSATING = "expired", "compensating"

MILLISECOND = timedelta(milliseconds=1)
# A larger number of attempts is ignored. The state cannot store all numbers that JSON allows.
MAX_ATTEMPTS = 2**31
# Error classes and pause reasons that may become labels. Other texts may contain customer data.
PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


# A column may be an error text of any length. The size of the whole body is limited.
csv.field_size_limit(2**31 - 1)


def run_path(endpoint: str, run_id: str) -> str:
    """Return the path of an endpoint of one run."""
    # Job runs and workflow runs have different names in templates, and a template has only one of them.
    return path(endpoint, runId=run_id, workflowRunId=run_id)


class StraitRun(msgspec.Struct, frozen=True):
    """A job run or a workflow run in a response. `created`: its creation time with microseconds, None if unreadable."""

    id: str
    created: datetime | None
    project: str
    status: str
    run: Run


class StraitJob(msgspec.Struct, frozen=True):
    """A job or a workflow in a list."""

    id: str
    created: datetime | None
    job: Job


Row = TypeVar("Row")
Parser = Callable[[Fields], Row | None]
"""Returns a row of a list; None if it has no ID."""


class StraitPage(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """A page of a list: its readable rows, the number of other rows, the next page's cursor, and whether there is one.

    `burst`: the creation time of more rows than the list can show; None if there is none.
    """

    rows: Sequence[Row]
    invalid: int = 0
    cursor: str = ""
    more: bool = False
    burst: datetime | None = None


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    steps: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET
    next_cursor: Any = None
    has_more: Any = None


LISTED = msgspec.json.Decoder(_Envelope | list[msgspec.Raw])


def parse_page(body: bytes, parse: Parser[Row], limit: float = float("inf"), *, first: bool = True) -> StraitPage[Row]:
    """Return a page. Raises SchemaError if it is the first page, and none of its rows is usable."""
    # The body is an object `{data, next_cursor, has_more}` or an array. If an array has `limit` rows, more may follow.
    response = decode(body, LISTED)
    if isinstance(response, list):
        raws, cursor, more = response, "", len(response) >= limit
    else:
        listed = response.steps if response.data is msgspec.UNSET else response.data
        if listed is msgspec.UNSET:
            raise SchemaError("the response is an object without the expected list")
        raws = listed or []
        cursor = response.next_cursor if isinstance(response.next_cursor, str) else ""
        more = bool(cursor) if response.has_more is None else response.has_more is True
    rows = usable(raws, lambda raw: parse(Fields.of(raw)), "of the expected shape", required=first)
    return StraitPage(rows=rows, invalid=len(raws) - len(rows), cursor=cursor, more=more)


def parse_single_run(body: bytes, run_id: str, statuses: StatusTable) -> StraitRun:
    """Return one run. Raises SchemaError if it has another ID."""
    row = parse_run(Fields.of_body(body), statuses)
    if row is None or row.id != run_id:
        raise SchemaError("the response is another run")
    return row


def parse_export(body: bytes, at: datetime) -> tuple[dict[str, str], bool]:
    """Return the runs of one creation time in a CSV export: job IDs by run ID, and whether the CSV is complete."""
    csv_text = body.decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")
    rows = _records(csv_text)
    header = next(rows, None) or []
    if not {"id", "job_id", "created_at"} <= set(header):
        raise SchemaError(f"GET {EXPORT}: the response is not the expected CSV")
    jobs, complete = dict[str, str](), csv_text.endswith("\n")
    for row in rows:
        if row is None or len(row) != len(header):
            complete = False
            continue
        fields = dict(zip(header, row, strict=True))
        created = exact_time(fields["created_at"])
        # An export may truncate times to milliseconds.
        if created is not None and abs(created - at) < MILLISECOND and 0 < len(fields["id"]) <= MAX_ID_LENGTH:
            jobs[fields["id"]] = fields["job_id"]
    return jobs, complete


def _records(csv_text: str) -> Iterator[list[str] | None]:
    """Yield the records of a CSV; None instead of the first unreadable record, which ends the records."""
    try:
        yield from (row for row in csv.reader(io.StringIO(csv_text, newline=""), strict=True) if row)
    except csv.Error:
        yield None


def parse_steps(body: bytes, statuses: StatusTable) -> tuple[list[Step], bool]:
    """Return the steps of a workflow run, one per name, and whether it has more steps."""
    page = parse_page(body, _named_step)
    steps = {fields.name("step_ref"): _step(fields, statuses) for fields in page.rows}
    return list(steps.values()), page.more


def parse_error(body: bytes, step_name: str) -> StepLog:
    """Return the error text of a step in a list of steps. For the step "", the body is a run."""
    if not step_name:
        return StepLog(stderr=Fields.of_body(body).text("error"))
    rows = parse_page(body, _named_step).rows
    return StepLog(stderr=next((row.text("error") for row in rows if row.text("step_ref") == step_name), ""))


def parse_job(fields: Fields, *, scope: str, workflow: bool) -> StraitJob | None:
    """Return a job of a list; None if it has no ID. Its name is the slug, because people often change titles."""
    row_id, paused = fields.identity("id"), fields.flag("paused") is True
    if not row_id:
        return None
    job = Job(
        job_id=(WORKFLOW if workflow else "") + row_id,
        name=fields.name("slug", "name") or row_id,
        project=fields.text("project_id"),
        scope=scope,
        schedule=fields.text("cron"),
        timezone=fields.text("timezone") or fields.text("cron_timezone"),
        # A paused job stays `enabled`.
        enabled=False if paused else fields.flag("enabled"),
        stop_cause=_plain_word(fields.text("pause_reason")) if paused else "",
        has_steps=workflow,
        reopens=not workflow,
    )
    return StraitJob(row_id, exact_time(fields.scalar("created_at")), job)


def unlisted_job(job_id: str, project: str, *, scope: str, workflow: bool) -> Job:
    """Return a job that was deleted or is hidden. Its name is its ID."""
    name = job_id.removeprefix(WORKFLOW)
    return Job(job_id=job_id, name=name, project=project, scope=scope, has_steps=workflow, reopens=not workflow)


def parse_run(fields: Fields, statuses: StatusTable) -> StraitRun | None:
    """Return a run; None if it has no ID.

    A retry keeps the ID, increments `attempt` and sets new times. So the run has the start and duration of the last
    attempt.
    """
    run_id, workflow, status = fields.identity("id"), fields.text("workflow_id"), fields.text("status")
    if not run_id:
        return None
    created, scheduled, end = map(fields.time, ("created_at", "scheduled_at", "finished_at"))
    result, state, unmapped = look_up(status, statuses, ended=end is not None)
    attempts = fields.scalar("attempt")
    attempts = attempts if type(attempts) is int and 0 < attempts < MAX_ATTEMPTS else 1
    error_type = _plain_word(fields.text("error_class")) if result in FAILING else ""
    # A run that expired while it waited for another attempt is a failure. A run that never ran is a skip.
    if status.strip().casefold() == EXPIRED and result is Result.SKIP and attempts > 1:
        result, error_type = Result.FAILURE, EXPIRED
    ended = result is not None
    start = None if result is Result.SKIP else fields.time("started_at")
    end = end if ended else None
    run = Run(
        run_id=run_id,
        job_id=WORKFLOW + workflow if workflow else fields.text("job_id") or "unknown",
        result=result,
        state=state,
        unmapped=unmapped,
        created=created,
        scheduled=None if ended or start is not None else _latest(scheduled, fields.time("next_retry_at")),
        start=start,
        end=end,
        duration=seconds_between(start, end),
        queue_duration=None if attempts > 1 or created is None else seconds_between(_latest(created, scheduled), start),
        retries=attempts - 1,
        recovered=result is Result.SUCCESS and attempts > 1,
        error_type=error_type,
        after_end=status.strip().casefold() == COMPENSATING and not ended,
    )
    return StraitRun(run_id, exact_time(fields.scalar("created_at")), fields.text("project_id"), status, run)


def _plain_word(text: str) -> str:
    """Return a text that may become a label; "" if it may contain customer data."""
    return text.strip() if PLAIN_WORD.fullmatch(text.strip()) else ""


def _named_step(fields: Fields) -> Fields | None:
    return fields if fields.name("step_ref") else None


def _step(fields: Fields, statuses: StatusTable) -> Step:
    result, state, _ = look_up(fields.text("status"), statuses)
    start = None if result is Result.SKIP else fields.time("started_at")
    end = fields.time("finished_at") if result is not None else None
    duration = seconds_between(start, end)
    return Step(name=fields.name("step_ref"), result=result, state=state, start=start, end=end, duration=duration)


def exact_time(value: object) -> datetime | None:
    """Return a time with its microseconds, which cursors need; None if it is not a time."""
    try:
        timestamp = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # In the first and the last year, the time may be out of range in another time zone or one microsecond later.
    if timestamp is None or not MINYEAR < timestamp.year < MAXYEAR:
        return None
    return timestamp.replace(tzinfo=timestamp.tzinfo or UTC)


def from_timestamp(timestamp: float) -> datetime:
    """Return the time of a Unix timestamp."""
    return datetime.fromtimestamp(timestamp, UTC)


def cursor_at(timestamp: datetime) -> str:
    """Return the cursor from which a list shows rows created before a time."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def cursor_from(timestamp: datetime) -> str:
    """Return the cursor from which a list shows rows created at a time, and before."""
    return cursor_at(timestamp + timedelta(microseconds=1))


def _latest(*timestamps: float | None) -> float | None:
    return max((timestamp for timestamp in timestamps if timestamp is not None), default=None)
