"""Strait's API: its paths, and parsers of its responses. A run's payload and result are never decoded.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from exporter.counting.labels import clean
from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, Step
from exporter.sources.payload import MAX_ID_LENGTH, OBJECT, Fields, decode, decoded, usable
from exporter.sources.rest import StatusTable, look_up, path, seconds_between
from exporter.sources.source import StepLog
from exporter.times import parse_timestamp

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
# Pause reasons that may become labels. Other texts may contain customer data.
PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


# A column may be an error text of any length. The size of the whole body is limited.
csv.field_size_limit(2**31 - 1)


def run_path(endpoint: str, run_id: str) -> str:
    """Return the path of an endpoint of one run."""
    # Job runs and workflow runs have different names in templates, and a template has only one of them.
    return path(endpoint, runId=run_id, workflowRunId=run_id)


class StraitRow(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that all rows have. Fields other than the ID may have any type."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    created_at: Any = None
    project_id: Any = None

    @property
    def created(self) -> datetime | None:
        """Return the creation time with its microseconds; None if it is unreadable."""
        return exact_time(self.created_at)


class StraitRun(StraitRow, frozen=True, kw_only=True):
    """A job run or a workflow run."""

    job_id: Any = None
    workflow_id: Any = None
    status: Any = None
    attempt: Any = None
    started_at: Any = None
    finished_at: Any = None
    scheduled_at: Any = None
    next_retry_at: Any = None
    error_class: Any = None

    @property
    def job(self) -> str:
        """Return the ID of the run's job."""
        return WORKFLOW + str(self.workflow_id) if self.workflow_id is not None else str(self.job_id or "unknown")


class StraitJob(StraitRow, frozen=True, kw_only=True):
    """A job or a workflow. Workflows have `cron_timezone` instead of `timezone`."""

    slug: Any = None
    name: Any = None
    cron: Any = None
    timezone: Any = None
    cron_timezone: Any = None
    enabled: Any = None
    paused: Any = None
    pause_reason: Any = None

    @property
    def is_enabled(self) -> bool | None:
        """Return whether its schedule starts runs; None if unknown."""
        # A paused job stays `enabled`.
        if self.paused is True:
            return False
        return self.enabled if isinstance(self.enabled, bool) else None


class StraitStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a workflow run. Its timeline has the same rows."""

    step_ref: str
    status: Any = None
    started_at: Any = None
    finished_at: Any = None


AnyRow = TypeVar("AnyRow")
RowKind = TypeVar("RowKind", bound=StraitRow)


class StraitPage(msgspec.Struct, Generic[AnyRow], frozen=True, kw_only=True):
    """A page of a list.

    Attributes:
        rows: The readable rows.
        invalid: Number of unreadable rows.
        cursor: The server's cursor of the next page.
        more: Whether there are more pages.
        burst: The creation time of more rows than the list can show; None if there is none.
    """

    rows: Sequence[AnyRow]
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
RUN_ROW: msgspec.json.Decoder[StraitRun] = msgspec.json.Decoder(StraitRun)
JOB_ROW: msgspec.json.Decoder[StraitJob] = msgspec.json.Decoder(StraitJob)
STEP_ROW: msgspec.json.Decoder[StraitStep] = msgspec.json.Decoder(StraitStep)


def parse_page(
    body: bytes, decoder: msgspec.json.Decoder[AnyRow], limit: float = float("inf"), *, first: bool = True
) -> StraitPage[AnyRow]:
    """Return a page. Raises SchemaError if it is the first page, and none of its rows is usable."""
    # The body is an object `{data, next_cursor, has_more}` or an array. If an array has `limit` rows, more may follow.
    response = decode(body, LISTED)
    if isinstance(response, list):
        raws, cursor, more = response, "", len(response) >= limit
    else:
        raws = _list_of(response)
        cursor = response.next_cursor if isinstance(response.next_cursor, str) else ""
        more = bool(cursor) if response.has_more is None else response.has_more is True
    rows = usable(raws, lambda raw: decoded(raw, decoder), "of the expected shape", required=first)
    return StraitPage(rows=rows, invalid=len(raws) - len(rows), cursor=cursor, more=more)


def _list_of(response: _Envelope) -> list[msgspec.Raw]:
    for rows in (response.data, response.steps):
        if rows is not msgspec.UNSET:
            return rows or []
    raise SchemaError("the response is an object without the expected list")


def parse_run(body: bytes) -> StraitRun:
    """Return one run."""
    return decode(body, RUN_ROW)


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
    page = parse_page(body, STEP_ROW)
    steps = {row.step_ref: _step(row, statuses) for row in page.rows if clean(row.step_ref)}
    return list(steps.values()), page.more


def parse_error(body: bytes, step_name: str) -> StepLog:
    """Return the error text of a step in a list of steps. For the step "", the body is a run."""
    if not step_name:
        return StepLog(stderr=Fields.of_body(body).text("error"))
    rows = map(Fields, parse_page(body, OBJECT).rows)
    return StepLog(stderr=next((row.text("error") for row in rows if row.text("step_ref") == step_name), ""))


def to_job(row: StraitJob, *, scope: str, workflow: bool) -> Job:
    """Return the job of a row. Its name is the slug, because people often change titles."""
    return Job(
        job_id=(WORKFLOW if workflow else "") + row.id,
        name=next(filter(clean, map(_text, (row.slug, row.name))), row.id),
        project=_text(row.project_id),
        scope=scope,
        schedule=_text(row.cron),
        timezone=_text(row.timezone) or _text(row.cron_timezone),
        enabled=row.is_enabled,
        stop_cause=_stop_cause(row),
        has_steps=workflow,
        reopens=not workflow,
    )


def _stop_cause(row: StraitJob) -> str:
    reason = _text(row.pause_reason).strip()
    return reason if row.paused is True and PLAIN_WORD.fullmatch(reason) else ""


def unlisted_job(job_id: str, project: object, *, scope: str, workflow: bool) -> Job:
    """Return a job that is not listed, because it was deleted. Its name is its ID."""
    name = job_id.removeprefix(WORKFLOW)
    return Job(job_id=job_id, name=name, project=_text(project), scope=scope, has_steps=workflow, reopens=not workflow)


def to_run(row: StraitRun, statuses: StatusTable) -> Run:
    """Return the run of a row.

    A retry keeps the ID, increments `attempt` and sets new times. So the row has the start and duration of the last
    attempt.
    """
    status = _text(row.status).strip().casefold()
    end = _time(row.finished_at)
    result, state, unmapped = look_up(_text(row.status), statuses, ended=end is not None)
    attempts = row.attempt if type(row.attempt) is int and 0 < row.attempt < MAX_ATTEMPTS else 1
    # A run that expired while it waited for another attempt is a failure. A run that never ran is a skip.
    expired_retry = status == EXPIRED and result is Result.SKIP and attempts > 1
    result = Result.FAILURE if expired_retry else result
    start = None if result is Result.SKIP else _time(row.started_at)
    created, scheduled = _time(row.created_at), _time(row.scheduled_at)
    ended = result is not None
    return Run(
        run_id=row.id,
        job_id=row.job,
        result=result,
        state=state,
        unmapped=unmapped,
        created=created,
        scheduled=None if ended or start is not None else _latest(scheduled, _time(row.next_retry_at)),
        start=start,
        end=end if ended else None,
        duration=seconds_between(start, end) if ended else None,
        queue_duration=seconds_between(_latest(created, scheduled), start)
        if attempts == 1 and created is not None
        else None,
        retries=attempts - 1,
        recovered=result is Result.SUCCESS and attempts > 1,
        error_type=EXPIRED if expired_retry else _text(row.error_class) if result in FAILING else "",
        after_end=status == COMPENSATING and not ended,
    )


def _step(row: StraitStep, statuses: StatusTable) -> Step:
    result, state, _ = look_up(_text(row.status), statuses)
    start = None if result is Result.SKIP else _time(row.started_at)
    end = _time(row.finished_at) if result is not None else None
    return Step(
        name=row.step_ref,
        result=result,
        state=state,
        start=start,
        end=end,
        duration=seconds_between(start, end),
    )


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


def cursor_at(timestamp: datetime) -> str:
    """Return the cursor from which a list shows rows created before a time."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def cursor_from(timestamp: datetime) -> str:
    """Return the cursor from which a list shows rows created at a time, and before."""
    return cursor_at(timestamp + timedelta(microseconds=1))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> float | None:
    return parse_timestamp(value) if isinstance(value, str | int | float) else None


def _latest(*timestamps: float | None) -> float | None:
    return max((timestamp for timestamp in timestamps if timestamp is not None), default=None)
