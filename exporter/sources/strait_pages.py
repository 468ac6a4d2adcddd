"""Strait's lists, newest creation first, followed page by page in spite of what the server does at their edges."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Generic

import msgspec

from exporter.client.client import Client
from exporter.errors import ClientStatusError, SchemaError
from exporter.sources.strait_api import Page, RowKind, cursor_at, cursor_from, exact, parse_page

MOST_ROWS = 100
"""Rows that the server puts on a page, at most."""

TOO_LARGE = 413


class Lists(Generic[RowKind]):
    """The pages of one endpoint.

    The server goes on from the creation of a page's last row, and leaves out rows created at that very instant. So the
    next page is asked for from a microsecond later, and what is shown again is left out here.

    Args:
        client: The API.
        endpoint: Path of the list.
        decoder: Of its rows.
        ended: Status words by which a crowd created at one instant is told apart; none if the list has no statuses.
    """

    def __init__(
        self, client: Client, endpoint: str, decoder: msgspec.json.Decoder[RowKind], *, ended: Iterable[str] = ()
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._decoder = decoder
        self._ended = tuple(ended)
        self._limit = MOST_ROWS

    def pages(
        self, *, status: str = "", before: datetime | None = None, since: datetime | None = None
    ) -> Iterator[Page[RowKind]]:
        """Pages of rows created before one instant and, save for the last page's tail, since another."""
        shown: set[str] = set()
        cursor = cursor_at(before) if before is not None else ""
        while True:
            page = self._page(cursor, status, first=not shown)
            last = self._last(page)
            following = cursor_from(last) if last is not None else page.cursor
            crowd: Page[RowKind] = Page(rows=())
            if page.more and following == cursor:
                crowd = self._crowd(cursor, status)
                following = cursor_at(last) if last is not None else ""
            rows = {row.id: row for row in (*page.rows, *crowd.rows) if row.id not in shown}
            shown |= rows.keys()
            yield Page(
                rows=tuple(rows.values()),
                invalid=page.invalid + crowd.invalid,
                truncated=page.truncated + crowd.truncated,
                more=page.more,
            )
            if not page.more or (since is not None and last is not None and last < since):
                return
            if following in ("", cursor):
                raise SchemaError(f"GET {self._endpoint}: there are more rows, but no way on to them")
            cursor = following

    def _page(self, cursor: str, status: str, *, first: bool = False) -> Page[RowKind]:
        """One page; its size is halved for as long as the server finds it too large."""
        self._limit = min(MOST_ROWS, self._limit)
        while True:
            params: dict[str, str | int | float] = {"limit": self._limit}
            params |= {"cursor": cursor} if cursor else {}
            params |= {"status": status} if status else {}
            try:
                answer = self._client.get(self._endpoint, endpoint=self._endpoint, params=params)
            except ClientStatusError as error:
                if error.status != TOO_LARGE or self._limit == 1:
                    raise
                self._limit //= 2
                continue
            return parse_page(answer.body, self._decoder, self._limit, first=first)

    def grow(self) -> None:
        """Larger pages may be tried again."""
        self._limit = min(MOST_ROWS, 2 * self._limit)

    def _last(self, page: Page[RowKind]) -> datetime | None:
        """The creation of a page's last row, as the server says it, else as the rows do."""
        told = exact(page.cursor)
        if told is not None or page.cursor:
            return told
        return min((created for row in page.rows if (created := row.created) is not None), default=None)

    def _crowd(self, cursor: str, status: str) -> Page[RowKind]:
        """More rows than a page holds were created at one instant: those of each final status are asked for.

        What even such a list does not show to its end may be missing, and is counted as truncated.
        """
        if status or not self._ended:
            return Page(rows=(), truncated=1)
        rows: list[RowKind] = []
        invalid = truncated = 0
        for word in self._ended:
            page = self._page(cursor, word)
            last = self._last(page)
            truncated += page.more and last is not None and cursor_from(last) == cursor
            invalid += page.invalid
            rows += page.rows
        return Page(rows=tuple(rows), invalid=invalid, truncated=truncated)
