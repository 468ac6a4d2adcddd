"""Snowplow Console's jobs API: its paths, and parsers, which accept many undocumented names and shapes.

Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Annotated

import msgspec

from exporter.counting.labels import clean
from exporter.errors import SchemaError
from exporter.model import FUTURE_MARGIN, Job, Result, Run, State, Step
from exporter.sources.payload import MAX_ID_LENGTH, OBJECT, ROWS, Fields, Scalar, decode, decode_rows, decoded, text
from exporter.sources.rest import StatusTable, ValueProblem, best_row, look_up, seconds_between
from exporter.sources.source import StepLog
from exporter.times import is_number, parse_timestamp, parse_vendor_duration

RUNS = "/organizations/{org}/jobs/v1/runs"
RUN = RUNS + "/{runId}"
STEPS = RUN + "/steps"
STEP = STEPS + "/{stepName}"
LIST_KEYS = ("runs", "jobRuns", "data", "items", "results", "content")
STEP_KEYS = ("steps", "taskStates")
STEP_LIST_KEYS = (*STEP_KEYS, *LIST_KEYS)
# Keys under which an object may contain a single run.
WRAPPERS = ("run", "jobRun", "job", "data", "item", "content", "result")
MAX_WRAPPERS = 3
"""Maximum depth of nested wrappers."""
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
STEP_NAME = ("name", "stepname", "taskname")
STATUS = ("state", "status", "runstate", "taskstate")
START = ("starttime", "startedat", "started", "start")
END = ("endtime", "endedat", "finishedat", "completedat")
DURATION = ("duration", "runduration", "taskduration")
DEPENDENCIES = ("dependencies", "dependson")
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
    return row if row is not None and row.has_usual_fields else _from_fields(Fields.of(raw))


def _from_fields(fields: Fields) -> SnowplowRun | None:
    run_id = fields.identity(*RUN_ID)
    if not run_id:
        return None
    return SnowplowRun(
        run_id=run_id,
        job_name=fields.name(*JOB_NAME),
        environment=fields.text("environment"),
        state=fields.text(*STATUS),
        start_time=fields.scalar(*START),
        duration=_duration(fields),
        end_time=fields.scalar(*END),
    )


def _duration(fields: Fields) -> Scalar:
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
        _completed(start, end, duration_of(row, now, milliseconds=milliseconds)) if meaning.result else (None, None)
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


def parse_run(body: bytes, statuses: StatusTable, run_id: str = "") -> tuple[SnowplowRun, list[Step] | None]:
    """Return the run with an ID ("" for any), and its steps; None instead of steps if the body has none."""
    found = [each for fields in _objects(body) for each in _runs_in(fields)]
    if not found:
        raise SchemaError("the response is not a run: it has no id")
    for row, steps in found:
        if run_id in ("", row.run_id):
            return row, None if steps is None else _steps(steps, statuses)
    raise SchemaError("the response is another run")


def parse_failure_reason(body: bytes) -> StepLog:
    """Return the error text of a run. It is customer data and is never stored."""
    return StepLog(stderr=next((reason for fields in _objects(body) if (reason := _failure_reason(fields))), ""))


def _objects(body: bytes) -> list[Fields]:
    """Return the object of a body, or the objects of a list."""
    try:
        return [Fields.of_body(body)]
    except SchemaError:
        return [Fields.of(raw) for raw in decode(body, ROWS)]


def _wrapped(fields: Fields, depth: int) -> Iterator[Fields]:
    """Yield the objects within an object that may contain a run."""
    for raw in fields.raws(*WRAPPERS) if depth < MAX_WRAPPERS else ():
        # A wrapper may also be a list with a single run.
        for each in (raw, *(decoded(raw, ROWS) or [])[:1]):
            yield Fields.of(each)


def _runs_in(
    fields: Fields, steps: Sequence[msgspec.Raw] | None = None, depth: int = 0
) -> Iterator[tuple[SnowplowRun, Sequence[msgspec.Raw] | None]]:
    """Yield the runs of an object, each with its steps. The object is a run, or an object around a run."""
    steps = next((rows for raw in fields.raws(*STEP_KEYS) if (rows := _list_of(raw)) is not None), steps)
    row = _from_fields(fields)
    if row is not None and row.state:
        yield row, steps
    for wrapped in _wrapped(fields, depth):
        yield from _runs_in(wrapped, steps, depth + 1)
    if row is not None and not row.state:
        yield row, steps


def _failure_reason(fields: Fields, depth: int = 0) -> str:
    inner = (_failure_reason(wrapped, depth + 1) for wrapped in _wrapped(fields, depth))
    return fields.text("failurereason") or next(filter(None, inner), "")


def _list_of(raw: msgspec.Raw) -> list[msgspec.Raw] | None:
    """Return the rows of a list, or of an object around a list; None if it is neither."""
    with suppress(SchemaError):
        return decode_rows(bytes(raw), STEP_LIST_KEYS)
    return None


def parse_steps(body: bytes, statuses: StatusTable) -> list[Step]:
    """Return the steps of a run, one per name."""
    raws = decode_rows(body, STEP_LIST_KEYS)
    steps = _steps(raws, statuses)
    if raws and not steps:
        raise SchemaError("no row of the response is a step")
    return steps


def parse_log(body: bytes) -> StepLog:
    """Return the tail of a step's output."""
    fields = Fields.of_body(body)
    return StepLog(stdout=fields.text("stdout"), stderr=fields.text("stderr"))


def _steps(raws: Sequence[msgspec.Raw], statuses: StatusTable) -> list[Step]:
    """Return one step per name: its completed row if there is one, otherwise its last row."""
    steps: dict[str, Step] = {}
    for raw in raws:
        fields = Fields.of(raw)
        name = fields.name(*STEP_NAME)
        if name:
            step = _step(fields, name, statuses)
            if step.result is not None or name not in steps or steps[name].result is None:
                steps[name] = step
    return list(steps.values())


def _step(fields: Fields, name: str, statuses: StatusTable) -> Step:
    meaning = look_up(fields.text(*STATUS), statuses)
    start, end, duration = fields.time(*START), fields.time(*END), parse_vendor_duration(_duration(fields))
    end, duration = _completed(start, end, duration) if meaning.result else (None, duration)
    return Step(
        name=name,
        result=meaning.result,
        state=meaning.state,
        start=start,
        end=end,
        duration=duration,
        dependencies=_dependencies(fields),
    )


def _dependencies(fields: Fields) -> tuple[str, ...]:
    # A dependency is a name, or an object with a name.
    names = (text(raw) or Fields.of(raw).text(*STEP_NAME) for raw in fields.rows(*DEPENDENCIES) or [])
    return tuple(name for name in names if name)


def _completed(start: float | None, end: float | None, duration: float | None) -> tuple[float | None, float | None]:
    """Return the end and the duration. If only one is known, the other is computed from it and the start."""
    if end is None and start is not None and duration is not None:
        end = start + duration
    return end, seconds_between(start, end) if duration is None else duration
