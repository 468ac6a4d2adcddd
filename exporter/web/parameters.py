"""Parses query strings to records strictly, with errors that name the parameter."""

import contextlib
import math
import types
import typing
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from exporter.queries.errors import InvalidParameterError

MAX_LENGTH = 8192
"""Maximum length of a query string, in characters."""

TIMES = frozenset({"after", "before"})
"""Parameters that are times: Unix seconds or RFC 3339."""

Record = TypeVar("Record", bound=msgspec.Struct)


def parse(query: str, record: type[Record]) -> Record:
    """Return the record of a query string. Raises InvalidParameterError."""
    if len(query) > MAX_LENGTH:
        raise InvalidParameterError("query", f"is longer than {MAX_LENGTH} characters")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise InvalidParameterError("query", "must be name=value pairs") from None
    return record(**fields_of(pairs, record))


def fields_of(pairs: Iterable[tuple[str, str]], record: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the given fields of a record, converted to their types. Raises InvalidParameterError."""
    known = {field.name: field.type for field in msgspec.structs.fields(record)}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise InvalidParameterError(name[:100], f"unknown parameter; known: {', '.join(known) or 'none'}")
        if name in values:
            raise InvalidParameterError(name, "is given twice")
        values[name] = _value(name, text, known[name])
    return values


def _value(name: str, text: str, kind: Any) -> Any:  # noqa: ANN401  # whatever the field's type is
    if name in TIMES:
        return _time(name, text)
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    # Any text is a valid string, even "null" and "true", which `convert` would convert to other types.
    if str in (typing.get_args(plain) if isinstance(plain, types.UnionType) else (plain,)):
        return text
    try:
        value = msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParameterError(name, str(error)) from None
    if value is None:  # the word "null"
        raise InvalidParameterError(name, "must not be null; omit it")
    return value


def _time(name: str, text: str) -> float:
    for read in (float, _from_iso):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(timestamp := read(text)):
                return timestamp
    raise InvalidParameterError(name, "must be Unix seconds or a time such as 2026-01-31T12:00:00Z")


def _from_iso(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
