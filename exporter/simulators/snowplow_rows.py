"""Snowplow's rows, in every variant that the documentation does not exclude."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import formatdate
from typing import Literal

import msgspec

from exporter.model import FAILING, Result, State
from exporter.simulators.response_view import Seen, chosen
from exporter.simulators.world import MARK, SimRun, SimStep


class SnowplowShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows look. The defaults are the rows that the vendor's clients have seen.

    Attributes:
        envelope: Key of the object around the list of runs; "" for a bare array.
        steps_envelope: The same for the list of steps.
        run_envelope: Key of the object around a single run; "" for no object.
        steps_key: Key of the steps of a single run.
        names: Other names for fields of runs and steps, by the usual name (`{"runId": "id"}`).
        omit: Fields of runs and steps to omit, by their usual names.
        omit_share: Fraction of runs (and of steps, by name) from which they are omitted.
        empty: Whether a field without a value is omitted or null.
        extra: More fields of every row.
        words: Other statuses, by the usual status (`{"RUNNING": "IN_PROGRESS"}`) or by the exporter's result or state
            (`{"cancellation": "CANCELLED"}`, to give single runs an unknown status).
        letters: The letter case of statuses.
        times: ISO 8601, also with a zone's name after it or in brackets; HTTP dates; epoch numbers of any unit.
        offset_minutes: The offset of ISO times; 0 is written as `Z`.
        fraction_digits: Digits after the second in ISO times and durations.
        durations: `iso` PT1H2M3.4S, `seconds` PT3723.4S, `days` P1DT60S, `weeks` P1WT60S, `number` 3723.4,
            `milliseconds` 3723400, `clock` 01:02:03.400, `words` 3723.4 seconds, `object` {"seconds": 3723.4}.
        negate_durations: Whether durations are negative, as if clocks differed.
        end_time: Name of a field with the end of a completed run; "" for no such field, as usual.
        running_duration: Whether rows of running runs and steps have a duration "so far".
        waiting_start: The start that a waiting run shows: none, or its creation.
        dependencies: Names, objects with `name`, null, or no field.
    """

    envelope: str = ""
    steps_envelope: str = ""
    run_envelope: str = ""
    steps_key: str = "steps"
    names: Mapping[str, str] = {}
    omit: frozenset[str] = frozenset()
    omit_share: float = 1.0
    empty: Literal["absent", "null"] = "absent"
    extra: Mapping[str, str | int | float | bool | None] = {}
    words: Mapping[str, str] = {}
    letters: Literal["upper", "lower", "title"] = "upper"
    times: Literal["iso", "zoned", "named", "http", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"] = "iso"
    offset_minutes: int = 0
    fraction_digits: int = 3
    durations: Literal["iso", "seconds", "days", "weeks", "number", "milliseconds", "clock", "words", "object"] = "iso"
    negate_durations: bool = False
    end_time: str = ""
    running_duration: bool = True
    waiting_start: Literal["absent", "created"] = "absent"
    dependencies: Literal["names", "objects", "null", "absent"] = "names"


STATUSES: Mapping[Result | State, str] = {
    State.PENDING: "WAITING",
    State.EXECUTING: "RUNNING",
    Result.SUCCESS: "SUCCEEDED",
    Result.SKIP: "SKIPPED",
}
"""The vendor's statuses. Every other result is FAILED."""


def run_row(seen: Seen, shape: SnowplowShape) -> dict[str, object]:
    """Return a row of the list at the time at which the run is seen."""
    run, now = seen
    outcome = run.at(now)
    started = run.start if run.start <= now else None
    if started is None and shape.waiting_start == "created":
        started = run.created
    row = {
        "runId": run.run_id,
        "jobId": hashlib.sha256(f"{run.job_id}/{run.version}".encode()).hexdigest(),
        "jobName": run.job_name,
        "environment": run.project,
        "state": _status(outcome, shape),
        "startTime": None if started is None else written_time(started, shape),
        "duration": _written_span(run.start, run.end, outcome, now, shape),
        "failureReason": run.error if outcome in FAILING else None,
    }
    if shape.end_time and isinstance(outcome, Result) and run.end is not None:
        row[shape.end_time] = written_time(run.end, shape)
    return _finished(row, run.run_id, shape)


def step_row(step: SimStep, now: float, shape: SnowplowShape) -> dict[str, object]:
    """Return a step at a time."""
    outcome = step.at(now)
    row = {
        "name": step.name,
        "state": _status(outcome, shape, no_op=step.no_op),
        "duration": _written_span(step.start, step.end, outcome, now, shape),
    }
    dependencies: object = {
        "names": step.dependencies,
        "objects": [{"name": name} for name in step.dependencies],
    }.get(shape.dependencies)
    if shape.dependencies != "absent":
        row["dependencies"] = dependencies
    finished = _finished(row, step.name, shape)
    if shape.dependencies == "null":
        finished[shape.names.get("dependencies", "dependencies")] = None
    return finished


def step_output(run: SimRun, step: SimStep, now: float) -> tuple[str, str]:
    """Return the standard output and standard error of a step, with customer data; "" before the step starts."""
    if step.start is None or step.start > now:
        return "", ""
    lines = [f"{number:04d} {run.job_name}/{step.name}: loaded a row of {MARK}" for number in range(400)]
    errors = f"Error in {step.name}: constraint violated by {MARK}\n" if step.at(now) in FAILING else ""
    return "\n".join(lines) + "\n", errors


def written_time(timestamp: float, shape: SnowplowShape) -> object:
    """Return a time (exact to the millisecond) as the shape writes it."""
    milliseconds = round(timestamp * 1000)
    if shape.times.startswith("epoch"):
        scale = {"epoch_s": 0.001, "epoch_ms": 1, "epoch_us": 1000, "epoch_ns": 1_000_000}[shape.times]
        return milliseconds * scale
    if shape.times == "http":
        return formatdate(milliseconds // 1000, usegmt=True)
    zone = timezone(timedelta(minutes=shape.offset_minutes)) if shape.offset_minutes else UTC
    whole = datetime.fromtimestamp(milliseconds // 1000, zone).isoformat()
    local, offset = whole[:19], whole[19:] if shape.offset_minutes else "Z"
    name = {"zoned": f"{offset}[UTC]", "named": " UTC"}.get(shape.times, offset)
    return local + _fraction(milliseconds % 1000, shape.fraction_digits) + name


def written_duration(seconds: float, shape: SnowplowShape) -> object:
    """Return a duration (exact to the millisecond) as the shape writes it."""
    milliseconds = round(seconds * 1000)
    if shape.durations == "number":
        return -milliseconds / 1000 if shape.negate_durations else milliseconds / 1000
    if shape.durations == "milliseconds":
        return milliseconds
    seconds = milliseconds / 1000
    if shape.durations == "object":
        return {"seconds": seconds}
    if shape.durations == "words":
        return f"{seconds} seconds"
    whole, part = divmod(milliseconds, 1000)
    if shape.durations == "clock":
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{part:03d}"
    sign = "-" if shape.negate_durations else ""
    return sign + _iso_parts(whole, _fraction(part, shape.fraction_digits).rstrip("0").rstrip("."), shape.durations)


def _iso_parts(seconds: int, fraction: str, style: str) -> str:
    if style == "seconds":
        return f"PT{seconds}{fraction}S"
    if style in ("days", "weeks"):
        unit = 86400 if style == "days" else 7 * 86400
        count, rest = divmod(seconds, unit)
        return f"P{count}{style[0].upper()}T{rest}{fraction}S"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    return "PT" + parts + (f"{rest}{fraction}S" if rest or fraction or not parts else "")


def _fraction(milliseconds: int, digits: int) -> str:
    return "." + f"{milliseconds:03d}".ljust(digits, "0")[:digits] if digits else ""


def _status(outcome: Result | State, shape: SnowplowShape, *, no_op: bool = False) -> str:
    usual = STATUSES.get(outcome, "FAILED")
    if no_op and usual == "SUCCEEDED":
        usual = "SUCCEEDED_NO_OP"
    status = shape.words.get(str(outcome), shape.words.get(usual, usual))
    return {"upper": status, "lower": status.lower(), "title": status.title()}[shape.letters]


def _written_span(
    start: float | None, end: float | None, outcome: Result | State, now: float, shape: SnowplowShape
) -> object:
    """Return the duration, or the duration so far of an active run or step; None if it has not started."""
    if start is None or outcome is State.PENDING:
        return None
    if outcome is State.EXECUTING:
        return written_duration(now - start, shape) if shape.running_duration else None
    return None if end is None else written_duration(end - start, shape)


def _finished(row: Mapping[str, object], key: str, shape: SnowplowShape) -> dict[str, object]:
    """Return a row with fields omitted, renamed and added as the shape says. `key`: its ID or name."""
    keep_empty = shape.empty == "null"
    omit = shape.omit if shape.omit and chosen(key, shape.omit_share) else ()
    kept = {
        shape.names.get(name, name): value
        for name, value in row.items()
        if name not in omit and (keep_empty or value is not None)
    }
    return {**kept, **shape.extra}
