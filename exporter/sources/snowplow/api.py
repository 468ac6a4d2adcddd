"""Snowplow Console's jobs API: its paths, and the parser of lists of runs, which accepts many undocumented shapes.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated

import msgspec

from exporter.counting.labels import clean
from exporter.errors import SchemaError
from exporter.model import FUTURE_MARGIN, Job, Result, Run, State
from exporter.sources.payload import MAX_ID_LENGTH, OBJECT, Fields, Scalar, decode_rows, decoded
from exporter.sources.rest import StatusTable, ValueProblem, best_row, look_up, seconds_between
from exporter.times import is_number, parse_timestamp, parse_vendor_duration

RUNS = "/organizations/{org}/jobs/v1/runs"
RUN = RUNS + "/{runId}"
STEPS = RUN + "/steps"
STEP = STEPS + "/{stepName}"
LIST_KEYS = ("runs", "jobRuns", "data", "items", "results", "content")
UNKNOWN_JOB = "unknown"
STATUSES: StatusTable = {
    "waiting": State.PENDING,
    "running": State.EXECUTING,
    "succeeded": Result.SUCCESS,
    # A step ended the run early because there was nothing to do.
    "succeeded_no_op": Result.SUCCESS,
    "failed": Result.FAILURE,
    "skipped": Result.SKIP,
    # The vendor does not document these statuses; their meaning is obvious.
    "pending": State.PENDING,
    "queued": State.PENDING,
    "scheduled": State.PENDING,
    "in_progress": State.EXECUTING,
    "executing": State.EXECUTING,
    "success": Result.SUCCESS,
    "successful": Result.SUCCESS,
    "completed": Result.SUCCESS,
    "failure": Result.FAILURE,
    "error": Result.FAILURE,
    "errored": Result.FAILURE,
    "timed_out": Result.TIMEOUT,
    "timedout": Result.TIMEOUT,
    "timeout": Result.TIMEOUT,
    "aborted": Result.CANCELLATION,
    "canceled": Result.CANCELLATION,
    "cancelled": Result.CANCELLATION,
}

# Alternative names of fields, without underscores, in the order in which they are tried.
RUN_ID = ("runid", "runreference", "id")
JOB_NAME = ("jobname", "name")
STATUS = ("state", "status", "runstate", "taskstate")
START = ("starttime", "startedat", "started", "start")
END = ("endtime", "endedat", "finishedat", "completedat")
DURATION = ("duration", "runduration", "taskduration")
# Fields of a duration that is an object, and their units in the order of ISO 8601.
DURATION_UNITS = {"days": "D", "hours": "H", "minutes": "M", "seconds": "S", "secs": "S"}


class SnowplowRun(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """A run as the API shows it."""

    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    job_name: str
    environment: str
    state: str
    start_time: Scalar = None
    duration: Scalar = None
    end_time: Scalar = None

    @property
    def has_usual_fields(self) -> bool:
        """Return whether the usual fields of a started run have values. If not, other fields may have them."""
        return bool(self.job_name.strip() and self.state and self.start_time and (self.duration or self.end_time))


TYPED_ROW: msgspec.json.Decoder[SnowplowRun] = msgspec.json.Decoder(SnowplowRun)


class SnowplowRuns(msgspec.Struct, frozen=True):
    """The runs of a list, one row per run (`exporter.model.one_row_per_run`).

    Attributes:
        body: The list as received.
        by_text: The runs by the JSON text of their rows.
        by_id: The runs by ID.
        fresh: Runs whose text the last list did not have.
        invalid: Number of rows that are not runs.
        repeated: Number of rows that were dropped because another row shows the same run.
    """

    body: bytes
    by_text: Mapping[bytes, SnowplowRun]
    by_id: Mapping[str, SnowplowRun]
    fresh: Sequence[SnowplowRun]
    invalid: int
    repeated: int = 0


def parse_rows(body: bytes, known: Mapping[bytes, SnowplowRun], statuses: StatusTable = STATUSES) -> SnowplowRuns:
    """Return the runs of a list. `known`: the `by_text` of the last list, because most rows do not change."""
    texts, fresh, invalid = dict[bytes, SnowplowRun](), dict[bytes, SnowplowRun](), 0
    rows = decode_rows(body, LIST_KEYS)
    for row_text in map(bytes, rows):
        row = known.get(row_text)
        if row is None:
            row = _parse_row(row_text)
            if row is None:
                invalid += 1
                continue
            fresh[row_text] = row
        texts[row_text] = row
    if invalid and not texts:
        raise SchemaError("no row of the response is a run")
    by_id = {row.run_id: row for row in texts.values()}
    if len(by_id) < len(texts):
        texts = _one_per_run(texts, statuses)
        by_id = {row.run_id: row for row in texts.values()}
    fresh_rows = [row for row_text, row in fresh.items() if row_text in texts]
    return SnowplowRuns(body, texts, by_id, fresh_rows, invalid, repeated=len(rows) - invalid - len(texts))


def _one_per_run(texts: dict[bytes, SnowplowRun], statuses: StatusTable) -> dict[bytes, SnowplowRun]:
    """Return the rows without those that a better row of the same run replaces."""
    # A replaced row must not count as known: if a later list shows only this row, the row must be used.
    texts_of: dict[str, list[bytes]] = {}
    for row_text, row in texts.items():
        texts_of.setdefault(row.run_id, []).append(row_text)
    replaced = set[bytes]()
    for several in texts_of.values():
        if len(several) > 1:
            replaced.update(several)
            replaced.remove(best_row(sorted(several), lambda row_text: to_run(texts[row_text], statuses)))
    return {row_text: row for row_text, row in texts.items() if row_text not in replaced}


def _parse_row(row_text: bytes) -> SnowplowRun | None:
    """Return the run of a row; None if it has no ID."""
    raw = msgspec.Raw(row_text)
    row = decoded(raw, TYPED_ROW)
    return row if row is not None and row.has_usual_fields else run_from_fields(Fields.of(raw))


def run_from_fields(fields: Fields) -> SnowplowRun | None:
    """Return the run of an object, under any of the known names; None if it has no ID."""
    run_id = fields.identity(*RUN_ID)
    if not run_id:
        return None
    return SnowplowRun(
        run_id=run_id,
        job_name=fields.name(*JOB_NAME),
        environment=fields.text("environment"),
        state=fields.text(*STATUS),
        start_time=fields.scalar(*START),
        duration=duration_from_fields(fields),
        end_time=fields.scalar(*END),
    )


def duration_from_fields(fields: Fields) -> Scalar:
    """Return a duration as a text or a number. Convert an object such as `{"seconds": 2.5}` to ISO 8601."""
    objects = (decoded(raw, OBJECT) for raw in fields.raws(*DURATION))
    parts = next((each for each in objects if each is not None), None)
    return fields.scalar(*DURATION) if parts is None else _iso_duration(Fields(parts))


def _iso_duration(parts: Fields) -> str:
    values = {unit: value for name, unit in DURATION_UNITS.items() if (value := parts.text(name))}
    nanoseconds, seconds = parts.scalar("nanos", "nano"), parts.scalar("seconds", "secs")
    if isinstance(nanoseconds, int) and isinstance(seconds, int) and nanoseconds:
        values["S"] = f"{seconds + nanoseconds / 1e9:.9f}"
    days = f"{values.pop('D')}D" if "D" in values else ""
    return f"P{days}" + ("T" + "".join(f"{value}{unit}" for unit, value in values.items()) if values else "")


def to_job(row: SnowplowRun) -> Job:
    """Return the job of a run."""
    # The vendor's job ID is not used, because it changes whenever the job is edited.
    return Job(job_id=job_id_of(row), name=_name_of(row), project=row.environment)


def job_id_of(row: SnowplowRun) -> str:
    """Return the ID of a run's job: its environment and name."""
    return _job_id(row.environment, _name_of(row))


def _name_of(row: SnowplowRun) -> str:
    return row.job_name if clean(row.job_name) else UNKNOWN_JOB


@lru_cache(maxsize=4096)  # a poll of many runs has few jobs
def _job_id(environment: str, name: str) -> str:
    escaped = environment.replace("%", "%25").replace("/", "%2F")  # environment and name may contain a slash
    return f"{escaped}/{name}"


def to_run(row: SnowplowRun, statuses: StatusTable, now: float = float("inf"), *, milliseconds: bool = False) -> Run:
    """Return the run of a row. For `now` and `milliseconds`, see `duration_of`."""
    start, end = start_of(row), parse_timestamp(row.end_time)
    meaning = look_up(row.state, statuses, ended=end is not None)
    # The duration of an active run is dropped, because it would change at each poll.
    end, duration = (
        completed(start, end, duration_of(row, now, milliseconds=milliseconds)) if meaning.result else (None, None)
    )
    return Run(
        run_id=row.run_id,
        job_id=job_id_of(row),
        result=meaning.result,
        state=meaning.state,
        unmapped=meaning.unmapped,
        start=start,
        end=end,
        duration=duration,
    )


def completed(start: float | None, end: float | None, duration: float | None) -> tuple[float | None, float | None]:
    """Return the end and the duration. If only one is known, the other is computed from it and the start."""
    if end is None and start is not None and duration is not None:
        end = start + duration
    return end, seconds_between(start, end) if duration is None else duration


def start_of(row: SnowplowRun) -> float | None:
    """Return the start of a row's run; None if it is absent or unreadable."""
    return parse_timestamp(row.start_time)


def duration_of(row: SnowplowRun, now: float, *, milliseconds: bool) -> float | None:
    """Return a row's duration in seconds; None if it is unknown or implausible.

    A number without a unit is in milliseconds if `milliseconds` is true, or if with seconds the run would end in the
    future.
    """
    seconds = parse_vendor_duration(row.duration)
    if seconds is None or not is_number(row.duration):
        return seconds
    if milliseconds:
        return seconds / 1000
    start = start_of(row)
    latest = float("inf") if start is None else now + FUTURE_MARGIN - start
    return next((each for each in (seconds, seconds / 1000) if each <= latest), None)


def in_milliseconds(rows: Iterable[SnowplowRun], now: float, statuses: StatusTable) -> bool:
    """Return whether durations without a unit are in milliseconds: as seconds, most ends would be in the future."""
    ended = [row for row in rows if is_number(row.duration) and to_run(row, statuses).result is not None]
    in_future = sum((to_run(row, statuses).end or 0.0) > now + FUTURE_MARGIN for row in ended)
    return 2 * in_future > len(ended)


def problems_of(row: SnowplowRun, run: Run, now: float) -> Iterator[ValueProblem]:
    """Yield the unreadable or implausible values of a row."""
    if row.start_time is not None and run.start is None:
        yield "start time of a run cannot be read", row.start_time
    if row.end_time is not None and parse_timestamp(row.end_time) is None:
        yield "end time of a run cannot be read", row.end_time
    if run.result is not None and row.duration is not None and run.duration is None:
        yield "duration of a run cannot be read", row.duration
    if run.end is not None and run.end > now + FUTURE_MARGIN:
        yield "end of a run is in the future", row.duration if row.end_time is None else row.end_time
