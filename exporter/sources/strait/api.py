"""Strait's API: its paths, and parsers of its answers. Payloads, results and error texts are never decoded.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for one that is not what was asked for.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, Step
from exporter.sources.payload import MAX_ID_LENGTH, OBJECT, decode, decoded, text, usable
from exporter.sources.rest import StatusTable, look_up, seconds_between
from exporter.sources.source import StepLog
from exporter.sources.strait.statuses import COMPENSATING, EXPIRED
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
RUN_PARTS = ("runId", "workflowRunId")
"""The variable parts of these paths; a path has at most one of them."""

# Prefix of a workflow's identity, which keeps it apart from a job's.
WORKFLOW = "workflow:"

MILLISECOND = timedelta(milliseconds=1)
# A number of attempts from here on is an error; the state could not store the largest that JSON can.
MAX_ATTEMPTS = 2**31
# A reason that may become a label: anything longer could be a sentence about a customer.
PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


# An error of the server's is a field of any length, and only the body is limited.
csv.field_size_limit(2**31 - 1)


class StraitRow(msgspec.Struct, frozen=True, kw_only=True):
    """The common fields of all rows; equal rows mean the same. All but the ID may have any type."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    created_at: Any = None
    project_id: Any = None

    @property
    def created(self) -> datetime | None:
        """When it was created, exact to the microsecond; None if unreadable."""
        return exact(self.created_at)


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
        """The identity of its job."""
        return WORKFLOW + str(self.workflow_id) if self.workflow_id is not None else str(self.job_id or "unknown")


class StraitJob(StraitRow, frozen=True, kw_only=True):
    """A job or a workflow (`cron_timezone`)."""

    slug: Any = None
    name: Any = None
    cron: Any = None
    timezone: Any = None
    cron_timezone: Any = None
    enabled: Any = None
    paused: Any = None
    pause_reason: Any = None

    @property
    def runs_by_itself(self) -> bool | None:
        """Whether its schedule starts runs."""
        # A paused job stays `enabled` at the server.
        if self.paused is True:
            return False
        return self.enabled if isinstance(self.enabled, bool) else None


class StraitStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a workflow run, or of its timeline."""

    step_ref: str
    status: Any = None
    started_at: Any = None
    finished_at: Any = None


AnyRow = TypeVar("AnyRow")
RowKind = TypeVar("RowKind", bound=StraitRow)


class StraitPage(msgspec.Struct, Generic[AnyRow], frozen=True, kw_only=True):
    """A page of a list.

    Attributes:
        invalid: The number of unreadable rows.
        cursor: Where the server would continue.
        burst: A creation time of which the list shows only these rows, although there may be others.
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
    body: bytes, decoder: msgspec.json.Decoder[AnyRow], limit: int, *, first: bool = True
) -> StraitPage[AnyRow]:
    """Return a page of either shape: a bare array (more may follow a full one), or `{data, next_cursor, has_more}`.

    None of the rows having the expected shape is an error only on the first page.
    """
    answer = decode(body, LISTED)
    if isinstance(answer, list):
        raws, cursor, more = answer, "", len(answer) >= limit
    else:
        raws = _list_of(answer)
        cursor = answer.next_cursor if isinstance(answer.next_cursor, str) else ""
        more = bool(cursor) if answer.has_more is None else answer.has_more is True
    rows = usable(raws, lambda raw: decoded(raw, decoder), "of the expected shape", required=first)
    return StraitPage(rows=rows, invalid=len(raws) - len(rows), cursor=cursor, more=more)


def _list_of(answer: _Envelope) -> list[msgspec.Raw]:
    for rows in (answer.data, answer.steps):
        if rows is not msgspec.UNSET:
            return rows or []
    raise SchemaError("the answer is an object without the expected list")


def parse_run(body: bytes) -> StraitRun:
    """Return one run."""
    return decode(body, RUN_ROW)


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Job IDs by run ID, as the server's export has them. `complete`: the answer was not cut off."""

    jobs: Mapping[str, str]
    complete: bool


def parse_export(body: bytes, at: datetime) -> Export:
    """Return the runs that a CSV export has of one creation time; no other column is kept."""
    text_of = body.decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")
    rows = _records(text_of)
    header = next(rows, None) or []
    if not {"id", "job_id", "created_at"} <= set(header):
        raise SchemaError(f"GET {EXPORT}: the answer is not the expected CSV")
    jobs, complete = dict[str, str](), text_of.endswith("\n")
    for row in rows:
        if row is None or len(row) != len(header):
            complete = False
            continue
        fields = dict(zip(header, row, strict=True))
        created = exact(fields["created_at"])
        # An export may cut times to milliseconds.
        if created is not None and abs(created - at) < MILLISECOND and 0 < len(fields["id"]) <= MAX_ID_LENGTH:
            jobs[fields["id"]] = fields["job_id"]
    return Export(jobs=jobs, complete=complete)


def _records(text_of: str) -> Iterator[list[str] | None]:
    """Yield the records of a CSV; None at the first unreadable one, which is the last."""
    try:
        yield from (row for row in csv.reader(io.StringIO(text_of, newline=""), strict=True) if row)
    except csv.Error:
        yield None


def parse_steps(body: bytes, statuses: StatusTable) -> tuple[list[Step], bool]:
    """Return the steps of a workflow run, each name once, and whether there are more."""
    page = parse_page(body, STEP_ROW, limit=len(body))
    steps = {row.step_ref: _step(row, statuses) for row in page.rows}
    return list(steps.values()), page.more


def parse_error(body: bytes, step_name: str) -> StepLog:
    """Return the error text of a run, or of one of the steps in a list."""
    if not step_name:
        fields = decode(body, OBJECT)
        return StepLog(stderr=text(fields["error"]) if "error" in fields else "")
    for fields in parse_page(body, OBJECT, limit=len(body)).rows:
        if "step_ref" in fields and text(fields["step_ref"]) == step_name and "error" in fields:
            return StepLog(stderr=text(fields["error"]))
    return StepLog()


def to_job(row: StraitJob, *, scope: str, workflow: bool) -> Job:
    """Return the job of a row. Its name is its slug, as people change titles."""
    return Job(
        job_id=(WORKFLOW if workflow else "") + row.id,
        name=_text(row.slug) or _text(row.name) or row.id,
        project=_text(row.project_id),
        scope=scope,
        schedule=_text(row.cron),
        timezone=_text(row.timezone) or _text(row.cron_timezone),
        enabled=row.runs_by_itself,
        stop_cause=_stop_cause(row),
        has_steps=workflow,
        reopens=not workflow,
    )


def _stop_cause(row: StraitJob) -> str:
    reason = _text(row.pause_reason).strip()
    return reason if row.paused is True and PLAIN_WORD.fullmatch(reason) else ""


def unlisted_job(identity: str, project: object, *, scope: str, workflow: bool) -> Job:
    """Return the job of a run that no list of jobs shows, as it was deleted. Its ID is its name."""
    name = identity.removeprefix(WORKFLOW)
    return Job(
        job_id=identity, name=name, project=_text(project), scope=scope, has_steps=workflow, reopens=not workflow
    )


def to_run(row: StraitRun, statuses: StatusTable) -> Run:
    """Return the run of a row.

    A retry keeps the ID, increments `attempt` and sets new times: start and duration are those of the last attempt.
    """
    status = _text(row.status).strip().casefold()
    end = _time(row.finished_at)
    result, state, unmapped = look_up(_text(row.status), statuses, ended=end is not None)
    attempts = row.attempt if type(row.attempt) is int and 0 < row.attempt < MAX_ATTEMPTS else 1
    # A run that expired while it waited for another attempt has failed before; one that never ran is a skip.
    gave_up = status == EXPIRED and result is Result.SKIP and attempts > 1
    result = Result.FAILURE if gave_up else result
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
        error_type=EXPIRED if gave_up else _text(row.error_class) if result in FAILING else "",
        after_end=status == COMPENSATING and not ended,
    )


def trust(run: Run) -> tuple[bool, float, int, float]:
    """Return a sort key for rows of the same run: completed beats open, then the later end, then the later attempt."""
    end = float("-inf") if run.end is None else run.end
    start = float("-inf") if run.start is None else run.start
    return run.result is not None, end, run.retries, start


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


def exact(value: object) -> datetime | None:
    """Return a time exact to the microsecond, as cursors need it; None if it is not a time."""
    try:
        timestamp = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # Times of the first and the last year overflow in another time zone, or with a microsecond more.
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
