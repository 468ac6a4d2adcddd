"""Snowplow Console's jobs API: what its answers mean, whichever of the likely names and shapes they have."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated

import msgspec

from exporter.errors import SchemaError
from exporter.model import Job, Result, Run, State, Step, one_row_per_run
from exporter.sources.oddities import FUTURE_MARGIN, Oddity
from exporter.sources.payload import (
    ABSENT,
    LONGEST_ID,
    OBJECT,
    ROWS,
    Scalar,
    decode,
    decode_rows,
    decoded,
    identity,
    scalar,
    text,
)
from exporter.sources.rest import LONGEST_WORD, StatusTable, spelled, status_table
from exporter.sources.source import StepLog
from exporter.times import is_number, parse_duration, parse_timestamp

RUNS = "/organizations/{org}/jobs/v1/runs"
RUN = RUNS + "/{runId}"
STEPS = RUN + "/steps"
STEP = STEPS + "/{stepName}"
LIST_KEYS = ("runs", "jobRuns", "data", "items", "results", "content")
STEP_KEYS = ("steps", "taskStates")
STEP_LIST_KEYS = (*STEP_KEYS, *LIST_KEYS)
WRAPPERS = ("run", "jobRun", "job", "data", "item", "content", "result")
"""Keys of an object that may hold a single run."""
DEEPEST = 3
"""Wrappers in wrappers that are opened."""
UNKNOWN_JOB = "unknown"
NO_STATE = "absent"
"""The unmapped status of a row that has none."""
STATUSES: StatusTable = {
    "waiting": State.PENDING,
    "running": State.EXECUTING,
    "succeeded": Result.SUCCESS,
    "succeeded_no_op": Result.SUCCESS,  # a step that asked to stop early, all being done
    "failed": Result.FAILURE,
    "skipped": Result.SKIP,
    # The rest has never been seen from this API: other spellings whose meaning is beyond doubt.
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

RUN_ID = ("runid", "runreference", "id")
JOB_NAME = ("jobname", "name")
STEP_NAME = ("name", "stepname", "taskname")
WORD = ("state", "status", "runstate", "taskstate")
START = ("starttime", "startedat", "started", "start")
END = ("endtime", "endedat", "finishedat", "completedat")
DURATION = ("duration", "runduration", "taskduration")
DEPENDENCIES = ("dependencies", "dependson")
"""Names of fields, as `Fields` spells them; of several the first that has a value counts."""
SPAN_UNITS = {"days": "D", "hours": "H", "minutes": "M", "seconds": "S", "secs": "S"}
"""What the fields of a duration that is an object are in ISO 8601, in the order of ISO 8601."""


class RunRow(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """A run as the API words it; equal rows mean the same."""

    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
    job_name: str
    environment: str
    state: str
    start_time: Scalar = None
    duration: Scalar = None
    end_time: Scalar = None

    @property
    def complete(self) -> bool:
        """Whether it has all that is to be known of a run that has started: else it may be under another name."""
        return self.start_time is not None and (self.duration is not None or self.end_time is not None)


class Fields:
    """The fields of an object, not yet decoded, by their names without letter case and underscores."""

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self._fields: dict[str, msgspec.Raw] = {}
        for name, raw in fields.items():
            self._fields.setdefault(name.replace("_", "").casefold(), raw)

    def raws(self, names: Sequence[str]) -> Iterator[msgspec.Raw]:
        """The fields that have one of these names, in their order."""
        return (self._fields[name] for name in names if name in self._fields)

    def identity(self, names: Sequence[str]) -> str:
        """An ID, "" if there is none."""
        return identity(*self.raws(names))

    def text(self, names: Sequence[str]) -> str:
        """A text or a number, as text; "" if there is none."""
        return text(*self.raws(names))

    def scalar(self, names: Sequence[str]) -> Scalar:
        """A text or a number; a value of another kind is shown as what it is, for it cannot be read."""
        values = [raw for raw in self.raws(names) if bytes(raw) != b"null"]
        value = scalar(*values)
        return bytes(values[0]).decode(errors="replace")[:LONGEST_WORD] if value is None and values else value

    def span(self) -> Scalar:
        """A duration: a text, a number, or an object such as `{"seconds": 2.5}`."""
        for raw in self.raws(DURATION):
            parts = decoded(raw, OBJECT)
            if parts is not None:
                return _iso_duration(parts)
        return self.scalar(DURATION)


WHOLE: msgspec.json.Decoder[int] = msgspec.json.Decoder(int)
TYPED_ROW: msgspec.json.Decoder[RunRow] = msgspec.json.Decoder(RunRow)


def statuses(status_map: StatusTable) -> StatusTable:
    """The table of status words: the vendor's, and over them those of the configuration."""
    return status_table(STATUSES, status_map)


class RunList(msgspec.Struct, frozen=True, dict=True):
    """The runs of a list, each once: of several rows of a run the one to believe (`exporter.model.one_row_per_run`).

    Attributes:
        body: The list itself.
        texts: Its runs by their text in it. A row that is not believed is not in it.
        fresh: Those that an earlier list did not show with the same text.
        invalid: How many rows were not runs.
        repeated: How many rows were of a run that another row shows.
    """

    body: bytes
    texts: Mapping[bytes, RunRow]
    fresh: Sequence[RunRow]
    invalid: int
    repeated: int = 0

    @cached_property
    def by_id(self) -> Mapping[str, RunRow]:
        """Its runs by their ids."""
        return {row.run_id: row for row in self.texts.values()}


def parse_rows(body: bytes, known: Mapping[bytes, RunRow], status_map: StatusTable = STATUSES) -> RunList:
    """The runs of a list. `known` are the texts of an earlier one: most rows are usually the same to the byte.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a run.
    """
    texts, valid, invalid = dict[bytes, RunRow](), 0, 0
    for raw in decode_rows(body, LIST_KEYS):
        words = bytes(raw)
        row = known.get(words) or _row(raw)
        if row is None:
            invalid += 1
            continue
        valid += 1
        texts[words] = row
    if invalid and not texts:
        raise SchemaError("no row of the answer is a run")
    texts = _one_per_run(texts, status_map)
    fresh = [row for words, row in texts.items() if words not in known]
    return RunList(body, texts, fresh, invalid, valid - len(texts))


def _one_per_run(texts: dict[bytes, RunRow], status_map: StatusTable) -> dict[bytes, RunRow]:
    """Without the rows that are not to be believed: they must not be known when a later list shows them alone."""
    words_of: dict[str, list[bytes]] = {}
    for words, row in texts.items():
        words_of.setdefault(row.run_id, []).append(words)
    losing = set[bytes]()
    for several in words_of.values():
        if len(several) > 1:
            runs = {to_run(texts[words], status_map): words for words in sorted(several)}
            losing.update(several)
            losing.remove(runs[one_row_per_run(runs)[0]])
    return {words: row for words, row in texts.items() if words not in losing} if losing else texts


def _row(raw: msgspec.Raw) -> RunRow | None:
    """A row with its fields under their first names, None if it has no id."""
    row = decoded(raw, TYPED_ROW)
    if row is not None and row.complete:
        return row
    fields = decoded(raw, OBJECT)
    return None if fields is None else _from_fields(Fields(fields))


def _fields_of(raw: msgspec.Raw) -> Fields:
    """The fields of an object; none of anything else."""
    fields = decoded(raw, OBJECT)
    return Fields({} if fields is None else fields)


def _from_fields(fields: Fields) -> RunRow | None:
    run_id = fields.identity(RUN_ID)
    if not run_id:
        return None
    return RunRow(
        run_id=run_id,
        job_name=fields.text(JOB_NAME),
        environment=fields.text(("environment",)),
        state=fields.text(WORD),
        start_time=fields.scalar(START),
        duration=fields.span(),
        end_time=fields.scalar(END),
    )


def _iso_duration(parts: Mapping[str, msgspec.Raw]) -> str:
    """The duration that an object tells by its fields."""
    values = {unit: text(parts[name]) for name, unit in SPAN_UNITS.items() if name in parts}
    nanoseconds = decoded(parts.get("nanos", parts.get("nano", ABSENT)), WHOLE) or 0
    seconds = decoded(parts.get("seconds", parts.get("secs", ABSENT)), WHOLE)
    if nanoseconds and seconds is not None:
        values["S"] = f"{seconds + nanoseconds / 1e9:.9f}"
    days = f"{values.pop('D')}D" if "D" in values else ""
    return f"P{days}" + ("T" + "".join(f"{value}{unit}" for unit, value in values.items()) if values else "")


def to_job(row: RunRow) -> Job:
    """The job of a run. Its identity is environment and name; the vendor's own id changes with each edit."""
    return Job(job_id=job_id_of(row), name=row.job_name or UNKNOWN_JOB, project=row.environment)


def job_id_of(row: RunRow) -> str:
    """The identity of the job of a run."""
    return f"{row.environment}/{row.job_name or UNKNOWN_JOB}"


def to_run(row: RunRow, status_map: StatusTable, now: float = float("inf"), *, milliseconds: bool = False) -> Run:
    """The run of a row; `status_map` is the table made by `statuses`; `now` and `milliseconds`: see `duration_of`.

    An ended run without any duration and end has `end` None. The duration so far of an open run is left out: it would
    make another run of it at each reading.
    """
    meaning, unmapped = _meaning(row.state, status_map)
    start, end = start_of(row), parse_timestamp(row.end_time)
    if meaning is None and end is not None:
        meaning = Result.UNKNOWN
    result = meaning if isinstance(meaning, Result) else None
    duration = None
    if result is not None:
        end, duration = _completed(start, end, duration_of(row, now, milliseconds=milliseconds))
    return Run(
        run_id=row.run_id,
        job_id=job_id_of(row),
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        unmapped=unmapped,
        start=start,
        end=end if result is not None else None,
        duration=duration,
    )


def start_of(row: RunRow) -> float | None:
    """When the run of a row started."""
    return parse_timestamp(row.start_time)


def duration_of(row: RunRow, now: float, *, milliseconds: bool) -> float | None:
    """The duration of a row in seconds; a number without a unit is seconds, or `milliseconds` if that is known.

    A number that would set the end of the run into the future is milliseconds if these do not, else it is not believed.
    """
    seconds = parse_duration(row.duration)
    if seconds is None or not is_number(row.duration):
        return seconds
    if milliseconds:
        return seconds / 1000
    start = start_of(row)
    latest = float("inf") if start is None else now + FUTURE_MARGIN - start
    return next((each for each in (seconds, seconds / 1000) if each <= latest), None)


def in_milliseconds(rows: Sequence[RunRow], now: float, status_map: StatusTable) -> bool:
    """Whether durations without a unit are milliseconds: as seconds, most ends would lie in the future."""
    ended = [row for row in rows if is_number(row.duration) and to_run(row, status_map).result is not None]
    mistaken = sum((to_run(row, status_map).end or 0.0) > now + FUTURE_MARGIN for row in ended)
    return 2 * mistaken > len(ended)


def oddities(row: RunRow, run: Run, now: float) -> Iterator[Oddity]:
    """What could not be read of a row, or is hard to believe."""
    if row.start_time is not None and run.start is None:
        yield "start time of a run cannot be read", row.start_time
    if row.end_time is not None and parse_timestamp(row.end_time) is None:
        yield "end time of a run cannot be read", row.end_time
    if run.result is not None and row.duration is not None and run.duration is None:
        yield "duration of a run cannot be read", row.duration
    if run.end is not None and run.end > now + FUTURE_MARGIN:
        yield "end of a run is in the future", row.duration if row.end_time is None else row.end_time


def parse_run(body: bytes, status_map: StatusTable, run_id: str = "") -> tuple[RunRow, list[Step] | None]:
    """One run, and its steps if they came along, bare or wrapped in an object or a list.

    Args:
        body: The answer.
        status_map: The table made by `statuses`.
        run_id: The run that was asked for; "" accepts any.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not this run.
    """
    try:
        objects = [decode(body, OBJECT)]
    except SchemaError:
        objects = [fields for raw in decode(body, ROWS) if (fields := decoded(raw, OBJECT)) is not None]
    found = [each for fields in objects for each in _runs_in(fields)]
    if not found:
        raise SchemaError("the answer is not a run: it has no id")
    for row, steps in found:
        if run_id in ("", row.run_id):
            return row, None if steps is None else _steps(steps, status_map)
    raise SchemaError("the answer is another run")


def _runs_in(
    fields: Mapping[str, msgspec.Raw], steps: Sequence[msgspec.Raw] | None = None, depth: int = 0
) -> Iterator[tuple[RunRow, Sequence[msgspec.Raw] | None]]:
    """The run that an object is, or that it wraps, with the steps in it or beside it."""
    steps = next((rows for key in STEP_KEYS if (rows := _list_of(fields.get(key, ABSENT))) is not None), steps)
    row = _from_fields(Fields(fields))
    if row is not None and row.state:
        yield row, steps
    for key in WRAPPERS if depth < DEEPEST else ():
        inner = decoded(fields.get(key, ABSENT), OBJECT)
        if inner is None:  # a list of one
            inner = next((decoded(raw, OBJECT) for raw in decoded(fields.get(key, ABSENT), ROWS) or []), None)
        if inner is not None:
            yield from _runs_in(inner, steps, depth + 1)
    if row is not None and not row.state:
        yield row, steps


def _list_of(raw: msgspec.Raw) -> list[msgspec.Raw] | None:
    """The rows of a list or of an object around one; None if it is neither."""
    with suppress(SchemaError):
        return decode_rows(bytes(raw), STEP_LIST_KEYS) if bytes(raw) else None
    return None


def parse_steps(body: bytes, status_map: StatusTable) -> list[Step]:
    """The steps of a run, each name once.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a step.
    """
    raws = decode_rows(body, STEP_LIST_KEYS)
    steps = _steps(raws, status_map)
    if raws and not steps:
        raise SchemaError("no row of the answer is a step")
    return steps


def parse_log(body: bytes) -> StepLog:
    """The tail of a step's output.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not an object.
    """
    fields = decode(body, OBJECT)
    return StepLog(stdout=text(fields.get("stdout", ABSENT)), stderr=text(fields.get("stderr", ABSENT)))


def _steps(raws: Sequence[msgspec.Raw], status_map: StatusTable) -> list[Step]:
    """Each step once: as it ended, else as it was shown last."""
    steps: dict[str, Step] = {}
    for raw in raws:
        fields = _fields_of(raw)
        name = fields.text(STEP_NAME)
        if name:
            step = _step(fields, name, status_map)
            if step.result is not None or name not in steps or steps[name].result is None:
                steps[name] = step
    return list(steps.values())


def _step(fields: Fields, name: str, status_map: StatusTable) -> Step:
    meaning, _ = _meaning(fields.text(WORD), status_map)
    start, end = parse_timestamp(fields.scalar(START)), parse_timestamp(fields.scalar(END))
    duration = parse_duration(fields.span())
    result = meaning if isinstance(meaning, Result) else None
    ended, lasted = _completed(start, end, duration) if result is not None else (None, duration)
    return Step(
        name=name,
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        start=start,
        end=ended,
        duration=lasted,
        dependencies=_dependencies(fields),
    )


def _dependencies(fields: Fields) -> tuple[str, ...]:
    """Names, or objects that have one."""
    lists = (rows for raw in fields.raws(DEPENDENCIES) if (rows := decoded(raw, ROWS)) is not None)
    names = (text(raw) or _fields_of(raw).text(STEP_NAME) for raw in next(lists, []))
    return tuple(name for name in names if name)


def _meaning(word: str, status_map: StatusTable) -> tuple[Result | State | None, str]:
    """What a status word means, or None and the word itself."""
    word = word.strip()[:LONGEST_WORD]
    meaning = status_map.get(spelled(word))
    return (meaning, "") if meaning is not None else (None, word or NO_STATE)


def _completed(start: float | None, end: float | None, duration: float | None) -> tuple[float | None, float | None]:
    """End and duration of what has ended, each from the other where it is missing."""
    if end is None and start is not None and duration is not None:
        end = start + duration
    if duration is None and start is not None and end is not None:
        duration = max(0.0, end - start)
    return end, duration
