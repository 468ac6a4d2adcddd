"""Strait's pages, parameters and errors."""

import heapq
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from exporter.simulators.message import Refused, Request, Response, json_response
from exporter.simulators.response_view import ResponseView, chosen
from exporter.simulators.strait_rows import microseconds, timestamp

UNKNOWN_PATH = "no such path"
"""The message for an unknown path, which is not JSON."""

CODES = {
    400: "bad_request",
    401: "authentication_required",
    403: "forbidden",
    404: "not_found",
    413: "response_too_large",
    429: "too_many_requests",
}
"""Codes of errors by status."""

ADDRESS_LIMIT = "rate limit exceeded"
"""The message of the limit by address, which is not JSON."""

DEFAULT_LIMIT, MAX_LIMIT = 50, 100


class PagedRow(NamedTuple):
    """A row of a list: its creation time in microseconds, by which lists are sorted, and a function that builds it."""

    created: int
    identity: str
    row: Callable[[], object]


class Paging(NamedTuple):
    """How a list is shown: whether as a bare array, its maximum bytes, and the fraction of rows that are hidden."""

    bare: bool
    largest_body: int
    hidden: float


def paged(request: Request, listed: Iterable[PagedRow], view: ResponseView, paging: Paging) -> Response:
    """Return a page of rows created before the cursor.

    Rows with the creation time of a page's last row may be on no page, as on the real server.
    """
    limit, before = limit_of(request), cursor_of(request)
    rest = (one for one in listed if before is None or one.created < before)
    ordered = heapq.nsmallest(limit + 1, rest, key=lambda one: (-one.created, one.identity))
    page, more = ordered[:limit], len(ordered) > limit
    rows = view.rows([one.row() for one in page if not chosen(one.identity, paging.hidden)])
    cursor = {"next_cursor": timestamp(page[-1].created / 1_000_000)} if more else {}
    response = json_response(rows if paging.bare else {"data": rows, "has_more": more, **cursor})
    if len(response.body) > paging.largest_body:
        raise Refused(413, "response too large")
    return response


def limit_of(request: Request) -> int:
    """Return the size of the requested page. Raises Refused 400 if it is not a number."""
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not text.isdecimal() or int(text) < 1:
        raise Refused(400, "limit must be a positive integer")
    return min(int(text), MAX_LIMIT)


def time_of(request: Request, name: str) -> int:
    """Return a time of the query in microseconds. Raises Refused 400 if it is missing or not a time."""
    try:
        return microseconds(datetime.fromisoformat(request.query.get(name, "")).timestamp())
    except ValueError as error:
        raise Refused(400, f"{name} must be a valid RFC3339 timestamp") from error


def cursor_of(request: Request) -> int | None:
    """Return the cursor in microseconds. Raises Refused 400 if it is not a time."""
    text = request.query.get("cursor")
    if text is None:
        return None
    try:
        return microseconds(datetime.fromisoformat(text).timestamp())
    except ValueError as error:
        raise Refused(400, "cursor must be a valid RFC3339 timestamp") from error


def error_response(status: int, message: str) -> Response:
    """Return an error in one of the vendor's four shapes."""
    if status == 404 and message == UNKNOWN_PATH:
        return Response(status=404, body=b"404 page not found\n", content_type="text/plain; charset=utf-8")
    if status == 429 and message == ADDRESS_LIMIT:
        return Response(status=status, body=message.encode(), content_type="text/plain; charset=utf-8")
    if status == 402:
        return json_response({"code": "payment_required", "message": message}, status)
    code = CODES.get(status, "internal_error" if status >= 500 else "bad_request")
    return json_response({"error": {"code": code, "message": message}, "request_id": "host/simulated-1"}, status)
