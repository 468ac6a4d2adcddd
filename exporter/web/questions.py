"""Queries of addresses as the records that they stand for: strict, and with errors that name the parameter."""

import contextlib
import math
import types
import typing
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from exporter.reports.errors import BadQuestionError

LONGEST = 8192
"""Characters of a query."""

INSTANTS = frozenset({"after", "before"})
"""Parameters that are instants: Unix seconds or RFC 3339."""

Question = TypeVar("Question", bound=msgspec.Struct)


def parse(query: str, record: type[Question]) -> Question:
    """The record whose fields a query gives. Raises BadQuestionError."""
    if len(query) > LONGEST:
        raise BadQuestionError("query", f"is longer than {LONGEST} characters")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise BadQuestionError("query", "is not made of name=value") from None
    return record(**given(pairs, record))


def given(pairs: Iterable[tuple[str, str]], record: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of a record that are given, in their types. Raises BadQuestionError."""
    known = {field.name: field.type for field in msgspec.structs.fields(record)}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise BadQuestionError(name[:100], f"is not known; there are {', '.join(known) or 'none'}")
        if name in values:
            raise BadQuestionError(name, "is given twice")
        values[name] = _value(name, text, known[name])
    return values


def _value(name: str, text: str, kind: Any) -> Any:  # noqa: ANN401  # whatever the field's type is
    if name in INSTANTS:
        return _instant(name, text)
    if _is_text(kind):
        return text
    try:
        value = msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuestionError(name, str(error)) from None
    if value is None:  # the word "null"
        raise BadQuestionError(name, "must be left out where it is not meant")
    return value


def _is_text(kind: Any) -> bool:  # noqa: ANN401  # as above
    """Whether a field holds any text: then no word means another thing."""
    return str in (typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,))


def _instant(name: str, text: str) -> float:
    for read in (float, _from_iso):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(timestamp := read(text)):
                return timestamp
    raise BadQuestionError(name, "must be Unix seconds, or an instant such as 2026-01-31T12:00:00Z")


def _from_iso(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
