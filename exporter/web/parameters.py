"""Parses query strings strictly. Errors name the parameter."""

import contextlib
import math
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from exporter.queries.errors import QueryError
from exporter.times import from_iso

MAX_LENGTH = 8192
"""Maximum length of a query string, in characters."""

TIMES = frozenset({"after", "before"})
"""Parameters that are times: Unix seconds or RFC 3339."""

Parameters = TypeVar("Parameters", bound=msgspec.Struct)


def parse(query: str, kind: type[Parameters]) -> Parameters:
    """Return the parameters in a query string. Raises QueryError."""
    if len(query) > MAX_LENGTH:
        raise QueryError(400, f"is longer than {MAX_LENGTH} characters", parameter="query")
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
