"""Parameters of queries, and how they are parsed. For the results see `exporter.queries.records`."""

import contextlib
import enum
import math
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec

from exporter.model import Result, State
from exporter.queries.errors import QueryError
from exporter.times import from_iso

MAX_LIMIT = 500
"""The largest `limit` of a list."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


def doc(text: str) -> msgspec.Meta:
    """Return an annotation that describes a field in the OpenAPI document."""
    return msgspec.Meta(description=text)


class JobOrder(enum.StrEnum):
    """Order of a list of jobs. Jobs with equal values are sorted by name; jobs without a value come last."""

    URGENCY = "urgency"
    """The most urgent `status` first."""
    NAME = "name"
    LAST_RUN = "last_run"
    """The latest end first."""
    LAST_SUCCESS = "last_success"
    """The oldest first."""
    STREAK = "streak"
    """The longest first."""
    DURATION = "duration"
    """The longest last run first."""
    NEXT_EXPECTED = "next_expected"
    """The earliest first."""


Status = Literal["", "failing", "overdue", "stale", "stuck", "disabled", "ok", "idle"]


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Selects jobs to list. "" and None select any."""

    source: Annotated[str, doc("Name of the source.")] = ""
    project: Annotated[str | None, doc("The label `project`.")] = None
    job_name: Annotated[str, doc("The label `job_name`.")] = ""
    team: Annotated[str, doc("Team of the job.")] = ""
    status: Annotated[Status, doc("A value of `JobReport.status`.")] = ""
    search: Annotated[str, doc("Part of a job's name, ID or project, in any letter case.")] = ""
    order: Annotated[JobOrder, doc("Order of the list.")] = JobOrder.URGENCY
    limit: Annotated[Limit, doc("Jobs per page, at most 500.")] = 100
    page: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="Number of the page, from 1.")] = 1
    recent: Annotated[bool, doc("Whether to include the latest completed runs of each job.")] = True


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Selects runs to list. "" and None select any."""

    source: Annotated[str, doc("Name of the source.")] = ""
    project: Annotated[str | None, doc("The label `project`.")] = None
    job_name: Annotated[str, doc("The label `job_name`.")] = ""
    result: Annotated[Result | None, doc("Only completed runs with this result.")] = None
    state: Annotated[State | None, doc("Only active runs in this state.")] = None
    run_id: Annotated[str, doc("Only runs with this ID, in any source.")] = ""
    after: Annotated[float | None, doc("Earliest end of completed runs and start of active runs.")] = None
    before: Annotated[float | None, doc("Latest end of completed runs and start of active runs, exclusive.")] = None
    limit: Annotated[Limit, doc("Runs per page, at most 500.")] = 100
    cursor: Annotated[str, doc('`RunList.cursor` of the previous page; "" for the first page.')] = ""


# --- parsing: strict, with errors that name the parameter ---

MAX_QUERY_LENGTH = 8192
"""Maximum length of a query string, in characters."""

TIMES = frozenset({"after", "before"})
"""Parameters that are times: Unix seconds or RFC 3339."""

Parameters = TypeVar("Parameters", bound=msgspec.Struct)


def parse(query: str, kind: type[Parameters]) -> Parameters:
    """Return the parameters in a query string. Raises QueryError."""
    if len(query) > MAX_QUERY_LENGTH:
        raise QueryError(400, f"is longer than {MAX_QUERY_LENGTH} characters", parameter="query")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise QueryError(400, "must be name=value pairs", parameter="query") from None
    return from_pairs(pairs, kind)


def from_pairs(pairs: Iterable[tuple[str, str]], kind: type[Parameters]) -> Parameters:
    """Return the parameters with these names and texts. Raises QueryError."""
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise QueryError(400, f"unknown parameter; known: {', '.join(known) or 'none'}", parameter=name[:100])
        if name in values:
            raise QueryError(400, "is given twice", parameter=name)
        values[name] = _value(name, text, known[name])
    return kind(**values)


def _value(name: str, text: str, kind: Any) -> Any:  # noqa: ANN401  # a value of the field's type
    if name in TIMES:
        return _time(name, text)
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    # msgspec would convert the texts "null" and "true" to other types.
    if str in (typing.get_args(plain) if isinstance(plain, types.UnionType) else (plain,)):
        return text
    try:
        value = msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise QueryError(400, str(error), parameter=name) from None
    if value is None:  # the text was "null"
        raise QueryError(400, "must not be null; omit it", parameter=name)
    return value


def _time(name: str, text: str) -> float:
    for read in (float, from_iso):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(timestamp := read(text)):
                return timestamp
    raise QueryError(400, "must be Unix seconds or a time such as 2026-01-31T12:00:00Z", parameter=name)
