"""Strait's API: its paths, and what its answers mean. Payloads, results and error texts are never decoded."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, State, Step
from exporter.sources.payload import LONGEST_ID, OBJECT, decode, decoded, text
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

WORKFLOW = "workflow:"
"""What the identity of a workflow begins with, to keep it apart from a job's."""

LONGEST_WORD = 64
MOST_ATTEMPTS = 2**31
"""A number of attempts from here on is a mistake; the state could not even hold the largest that JSON can."""
NO_STATUS = "absent"
"""The unmapped status of a row that has none."""
PLAIN_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
"""A reason that may become a label: anything longer could be a sentence about a customer."""

EXPIRED = "expired"
COMPENSATING = "compensating"

RUN_STATUSES: Mapping[str, Result | State] = {
    "delayed": State.PENDING,
    "replay_staged": State.PENDING,
    "queued": State.PENDING,
    "dequeued": State.PENDING,
    "executing": State.EXECUTING,
    "waiting": State.PENDING,
    "paused": State.PENDING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    "dead_letter": Result.FAILURE,  # its retries are used up
    "crashed": Result.ERROR,
    "system_failed": Result.ERROR,
    "timed_out": Result.TIMEOUT,
    "canceled": Result.CANCELLATION,
    EXPIRED: Result.SKIP,  # it never ran, see `to_run`
}
"""Of ordinary runs; the open ones in the order in which a run goes through them."""

WORKFLOW_STATUSES: Mapping[str, Result | State] = {
    "pending": State.PENDING,
    "running": State.EXECUTING,
    "paused": State.PENDING,
    COMPENSATING: State.EXECUTING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    "timed_out": Result.TIMEOUT,
    "canceled": Result.CANCELLATION,
    "compensated": Result.FAILURE,
    "compensation_failed": Result.ERROR,
    EXPIRED: Result.SKIP,  # not promised for workflows; it would mean what it means for runs
}
"""Of workflow runs."""

STEP_STATUSES: Mapping[str, Result | State] = {
    "pending": State.PENDING,
    "waiting": State.PENDING,
    "running": State.EXECUTING,
    "completed": Result.SUCCESS,
    "failed": Result.FAILURE,
    "skipped": Result.SKIP,
    "canceled": Result.CANCELLATION,
}
"""Of the steps of a workflow run."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What all rows of lists have; equal rows mean the same. Whatever is not vital may be of any type."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
    created_at: Any = None
    project_id: Any = None

    @property
    def created(self) -> datetime | None:
        """When it was created, exact to the microsecond; None if that cannot be understood."""
        return exact(self.created_at)


class RunRow(Row, frozen=True, kw_only=True):
    """A run, or a workflow run."""

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
        """The identity of its job with us."""
        return WORKFLOW + str(self.workflow_id) if self.workflow_id is not None else str(self.job_id or "unknown")


class JobRow(Row, frozen=True, kw_only=True):
    """A job, or a workflow (`cron_timezone`)."""

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
        """Whether its schedule starts runs. A paused job stays `enabled` at the server."""
        if self.paused is True:
            return False
        return self.enabled if isinstance(self.enabled, bool) else None


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a workflow run, or of its timeline."""

    step_ref: str
    status: Any = None
    started_at: Any = None
    finished_at: Any = None


AnyRow = TypeVar("AnyRow")
RowKind = TypeVar("RowKind", bound=Row)


class Page(msgspec.Struct, Generic[AnyRow], frozen=True, kw_only=True):
    """One answered page.

    Attributes:
        invalid: Rows that could not be understood.
        cursor: Where the server would go on.
        burst: A creation time of which the list shows no more than these rows, although there may be others.
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
RUN_ROW: msgspec.json.Decoder[RunRow] = msgspec.json.Decoder(RunRow)
JOB_ROW: msgspec.json.Decoder[JobRow] = msgspec.json.Decoder(JobRow)
STEP_ROW: msgspec.json.Decoder[StepRow] = msgspec.json.Decoder(StepRow)


def path(endpoint: str, part: str) -> str:
    """The path of an endpoint (template) with one variable part, percent-encoded."""
    head, _, tail = endpoint.partition("{")
    return head + quote(part, safe="") + tail.partition("}")[2]


def statuses(
    table: Mapping[str, Result | State], status_map: Mapping[str, Result | State]
) -> dict[str, Result | State]:
    """A table of status words, letter case folded: the vendor's, and over them those of the configuration."""
    return {**table, **{word.casefold(): meaning for word, meaning in status_map.items()}}


def parse_page(body: bytes, decoder: msgspec.json.Decoder[AnyRow], limit: int, *, first: bool = True) -> Page[AnyRow]:
    """A page in either shape: a bare array, of which a full one may go on, or `{data, next_cursor, has_more}`.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is what it should be although it is the list's first page.
    """
    answer = decode(body, LISTED)
    if isinstance(answer, list):
        raws, cursor, more = answer, "", len(answer) >= limit
    else:
        raws = _list_of(answer)
        cursor = answer.next_cursor if isinstance(answer.next_cursor, str) else ""
        more = bool(cursor) if answer.has_more is None else answer.has_more is True
    rows = [row for raw in raws if (row := decoded(raw, decoder)) is not None]
    if raws and not rows and first:
        raise SchemaError("no row of the answer is what was promised")
    return Page(rows=rows, invalid=len(raws) - len(rows), cursor=cursor, more=more)


def _list_of(answer: _Envelope) -> list[msgspec.Raw]:
    for rows in (answer.data, answer.steps):
        if rows is not msgspec.UNSET:
            return rows or []
    raise SchemaError("the answer is an object without the list that was promised")


def parse_run(body: bytes) -> RunRow:
    """One run. Raises DecodeError and SchemaError."""
    return decode(body, RUN_ROW)


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """IDs of runs with their job IDs, as the export names them. `whole`: the answer was not cut off."""

    jobs: Mapping[str, str]
    whole: bool


def parse_export(body: bytes, at: datetime) -> Exported:
    """Return the runs that an export in CSV names as created at one time; no other column is kept.

    Raises SchemaError if the columns `id`, `job_id` and `created_at` are missing.
    """
    text_of = body.decode(errors="replace")
    rows = _records(text_of)
    header = next(rows, None) or []
    if not {"id", "job_id", "created_at"} <= set(header):
        raise SchemaError(f"GET {EXPORT}: the answer is not the CSV that was promised")
    jobs, whole = dict[str, str](), text_of.endswith("\n")
    for row in rows:
        if row is None or len(row) != len(header):
            whole = False
            continue
        fields = dict(zip(header, row, strict=True))
        if 0 < len(fields["id"]) <= LONGEST_ID and exact(fields["created_at"]) == at:
            jobs[fields["id"]] = fields["job_id"]
    return Exported(jobs=jobs, whole=whole)


def _records(text_of: str) -> Iterator[list[str] | None]:
    """Yield the records of a CSV; None for what cannot be read, with which it ends."""
    try:
        yield from (row for row in csv.reader(text_of.splitlines(keepends=True), strict=True) if row)
    except csv.Error:
        yield None


def parse_steps(body: bytes, status_map: Mapping[str, Result | State]) -> tuple[list[Step], bool]:
    """The steps of a workflow run, each name once, and whether there are more of them than the answer holds."""
    page = parse_page(body, STEP_ROW, limit=len(body))
    steps = {row.step_ref: _step(row, status_map) for row in page.rows}
    return list(steps.values()), page.more


def parse_error(body: bytes, step_name: str) -> StepLog:
    """The error text of a run, or of one of the steps in a list, for a person who asked for it."""
    if not step_name:
        fields = decode(body, OBJECT)
        return StepLog(stderr=text(fields["error"]) if "error" in fields else "")
    for fields in parse_page(body, OBJECT, limit=len(body)).rows:
        if "step_ref" in fields and text(fields["step_ref"]) == step_name and "error" in fields:
            return StepLog(stderr=text(fields["error"]))
    return StepLog()


def to_job(row: JobRow, *, scope: str, workflow: bool) -> Job:
    """A job; its name is its slug, which never changes by itself as titles do."""
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


def _stop_cause(row: JobRow) -> str:
    reason = _text(row.pause_reason).strip()
    return reason if row.paused is True and PLAIN_WORD.fullmatch(reason) else ""


def unlisted_job(identity: str, project: object, *, scope: str, workflow: bool) -> Job:
    """The job of a run that no list of jobs shows: deleted meanwhile. Its id stands for its name."""
    name = identity.removeprefix(WORKFLOW)
    return Job(
        job_id=identity, name=name, project=_text(project), scope=scope, has_steps=workflow, reopens=not workflow
    )


def to_run(row: RunRow, status_map: Mapping[str, Result | State]) -> Run:
    """The run of a row; `status_map` is a table made by `statuses`.

    A retry keeps the ID, counts `attempt` up and sets new times: start and duration are those of the last attempt.
    A run that expired while it waited for another attempt failed before; one that never ran is a skip.
    """
    word = _text(row.status).strip()[:LONGEST_WORD]
    meaning = status_map.get(word.casefold())
    unmapped = (word or NO_STATUS) if meaning is None else ""
    end = _instant(row.finished_at)
    if meaning is None and end is not None:
        meaning = Result.UNKNOWN
    attempts = row.attempt if type(row.attempt) is int and 0 < row.attempt < MOST_ATTEMPTS else 1
    gave_out = word.casefold() == EXPIRED and meaning is Result.SKIP and attempts > 1
    result = Result.FAILURE if gave_out else meaning if isinstance(meaning, Result) else None
    start = None if result is Result.SKIP else _instant(row.started_at)
    created, scheduled = _instant(row.created_at), _instant(row.scheduled_at)
    ended = result is not None
    return Run(
        run_id=row.id,
        job_id=row.job,
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        unmapped=unmapped,
        created=created,
        scheduled=None if ended or start is not None else _latest(scheduled, _instant(row.next_retry_at)),
        start=start,
        end=end if ended else None,
        duration=max(0.0, end - start) if ended and start is not None and end is not None else None,
        queue_duration=_between(_latest(created, scheduled), start) if attempts == 1 and created is not None else None,
        retries=attempts - 1,
        recovered=result is Result.SUCCESS and attempts > 1,
        error_type=EXPIRED if gave_out else _text(row.error_class) if result in FAILING else "",
        after_end=word.casefold() == COMPENSATING and not ended,
    )


def trust(run: Run) -> tuple[bool, float, int, float]:
    """Return what rows of one run are ordered by: an end beats none, then the later end, then the later attempt."""
    end = float("-inf") if run.end is None else run.end
    start = float("-inf") if run.start is None else run.start
    return run.result is not None, end, run.retries, start


def _step(row: StepRow, status_map: Mapping[str, Result | State]) -> Step:
    meaning = status_map.get(_text(row.status).strip().casefold())
    result = meaning if isinstance(meaning, Result) else None
    start = None if result is Result.SKIP else _instant(row.started_at)
    end = _instant(row.finished_at) if result is not None else None
    return Step(
        name=row.step_ref,
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        start=start,
        end=end,
        duration=_between(start, end),
    )


def exact(value: object) -> datetime | None:
    """An instant exact to the microsecond, as cursors need it; None if it is no such text."""
    try:
        timestamp = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # The first and the last year would leave the calendar in another time zone, or with a microsecond more.
    if timestamp is None or not MINYEAR < timestamp.year < MAXYEAR:
        return None
    return timestamp.replace(tzinfo=timestamp.tzinfo or UTC)


def cursor_at(timestamp: datetime) -> str:
    """The cursor from which a list shows what was created before an instant."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def cursor_from(timestamp: datetime) -> str:
    """The cursor from which a list shows what was created at an instant, and before."""
    return cursor_at(timestamp + timedelta(microseconds=1))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _instant(value: object) -> float | None:
    return parse_timestamp(value) if isinstance(value, str | int | float) else None


def _latest(*timestamps: float | None) -> float | None:
    return max((timestamp for timestamp in timestamps if timestamp is not None), default=None)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
