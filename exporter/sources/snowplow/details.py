"""Parsers of what Snowplow Console's jobs API shows about one run: the run, its steps, and their output.

They accept many undocumented names and shapes. They raise DecodeError for a body that is not JSON, and SchemaError for
a body of another shape.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from exporter.errors import SchemaError
from exporter.model import Step
from exporter.sources.payload import ROWS, Fields, decode, decode_rows, decoded, text
from exporter.sources.rest import StatusTable, look_up
from exporter.sources.snowplow.api import (
    END,
    LIST_KEYS,
    START,
    STATUS,
    SnowplowRun,
    completed,
    duration_from_fields,
    run_from_fields,
)
from exporter.sources.source import StepLog
from exporter.times import parse_vendor_duration

STEP_KEYS = ("steps", "taskStates")
STEP_LIST_KEYS = (*STEP_KEYS, *LIST_KEYS)
# Keys under which an object may contain a single run.
WRAPPERS = ("run", "jobRun", "job", "data", "item", "content", "result")
MAX_WRAPPERS = 3
"""Maximum depth of nested wrappers."""
STEP_NAME = ("name", "stepname", "taskname")
DEPENDENCIES = ("dependencies", "dependson")


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
    row = run_from_fields(fields)
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
    start, end, duration = fields.time(*START), fields.time(*END), parse_vendor_duration(duration_from_fields(fields))
    end, duration = completed(start, end, duration) if meaning.result else (None, duration)
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
