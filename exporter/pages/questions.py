"""What the query of a page's address asks for. Faults are BadQuestionError."""

import enum
from collections.abc import Mapping
from typing import TypeVar

from exporter.model import Result, State
from exporter.reports import BadQuestionError, JobFilter, JobOrder, RunFilter
from exporter.times import parse_instant

Query = Mapping[str, str]
Word = TypeVar("Word", bound=enum.StrEnum)

PAGE = 100
"""Rows on a page."""
LONGEST = 1000
"""Letters of one parameter."""


def job_filter(query: Query) -> JobFilter:
    """Of the status page. An empty project means any: that is how a form says it."""
    return JobFilter(
        source=_text(query, "source"),
        project=_text(query, "project") or None,
        job_name=_text(query, "job_name"),
        team=_text(query, "team"),
        status=_text(query, "status"),
        search=_text(query, "search"),
        order=_word(query, "order", JobOrder) or JobOrder.URGENCY,
        limit=PAGE,
        page=_page(query),
    )


def run_filter(query: Query) -> RunFilter:
    """Of the run explorer."""
    return RunFilter(
        source=_text(query, "source"),
        project=_text(query, "project") or None,
        job_name=_text(query, "job_name"),
        result=_word(query, "result", Result),
        state=_word(query, "state", State),
        run_id=_text(query, "run_id").strip(),
        after=_instant(query, "after"),
        before=_instant(query, "before"),
        limit=PAGE,
        cursor=_text(query, "cursor"),
    )


def _text(query: Query, name: str) -> str:
    text = query.get(name, "")
    if len(text) > LONGEST:
        raise BadQuestionError(name, f"is longer than {LONGEST} characters")
    return text


def _word(query: Query, name: str, kind: type[Word]) -> Word | None:
    text = query.get(name, "")
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise BadQuestionError(name, f"must be one of {', '.join(kind)}") from None


def _instant(query: Query, name: str) -> float | None:
    text = _text(query, name)
    instant = parse_instant(text)
    if text and instant is None:
        raise BadQuestionError(name, "must be a time like 2026-01-31T12:00 (UTC)")
    return instant


def _page(query: Query) -> int:
    text = query.get("page", "") or "1"
    if not (text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0):
        raise BadQuestionError("page", "must be a whole number from 1")
    return int(text)
