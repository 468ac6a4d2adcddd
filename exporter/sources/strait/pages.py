"""Strait's lists, newest creation first, followed page by page in spite of what the server does at their edges."""

from collections.abc import Iterator
from datetime import datetime
from typing import Generic

import msgspec

from exporter.client.client import Client
from exporter.errors import ClientStatusError, SchemaError
from exporter.sources.paging import PageGuard
from exporter.sources.strait.api import Page, RowKind, cursor_at, cursor_from, exact, parse_page

MOST_ROWS = 100
"""Rows that the server puts on a page, at most."""

MOST_PAGES = 10_000
"""Pages of one list; a window of a day with a million runs has as many."""

EMPTY_PAGES = 200
"""Pages in a row without a new row. Keys bound to an environment get such pages, as the server filters them late."""

TOO_LARGE = 413


class Lists(Generic[RowKind]):
    """The pages of one endpoint.

    The server goes on from the creation of a page's last row, and leaves out rows created at that very time. So the
    next page is asked for from a microsecond later, and what is shown again is left out here. Where one time has more
    rows than a page, the page says so (`burst`) and the list goes on before that time.

    Args:
        client: The API.
        endpoint: Path of the list.
        decoder: Of its rows.
        most_pages: Pages after which a list is taken to be one that never ends.
    """

    def __init__(
        self, client: Client, endpoint: str, decoder: msgspec.json.Decoder[RowKind], *, most_pages: int = MOST_PAGES
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._decoder = decoder
        self._most_pages = most_pages
        self._limit = MOST_ROWS

    def pages(
        self, *, status: str = "", before: datetime | None = None, since: datetime | None = None
    ) -> Iterator[Page[RowKind]]:
        """Yield pages of rows created before one time and, save for the last page's tail, since another.

        Rows at the edge of two pages are on both. Raises SchemaError if the list does not end.
        """
        guard = PageGuard(f"GET {self._endpoint}", self._most_pages)
        shown: set[str] = set()
        position, cursor, empty = before, "" if before is None else cursor_at(before), 0
        while True:
            page = self._page(cursor, status, first=not shown)
            last = self._last(page)
            following = page.cursor if last is None else cursor_from(last)
            burst = last if page.more and last is not None and following == cursor else None
            if burst is not None:
                following = cursor_at(burst)
            yield msgspec.structs.replace(page, burst=burst)
            if not page.more or (since is not None and last is not None and last < since):
                return
            if following in ("", cursor):
                raise SchemaError(f"GET {self._endpoint}: there are more rows, but no way on to them")
            ids = {row.id for row in page.rows}
            empty = empty + 1 if ids <= shown else 0
            goes_back = last is not None and position is not None and last >= position
            if goes_back or empty > EMPTY_PAGES:
                raise SchemaError(f"GET {self._endpoint}: the list does not end: it shows earlier rows again")
            guard.check(ids if last is None else (), following)
            shown |= ids
            position, cursor = exact(following), following

    def page_at(self, time: datetime, status: str) -> Page[RowKind]:
        """Return the first page of a status's rows created at a time and before; `burst` if there are more at it."""
        page = self._page(cursor_from(time), status)
        last = self._last(page)
        return msgspec.structs.replace(page, burst=time if page.more and last is not None and last >= time else None)

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
        """Allow larger pages again."""
        self._limit = min(MOST_ROWS, 2 * self._limit)

    def _last(self, page: Page[RowKind]) -> datetime | None:
        """The creation of a page's last row, as the server says it, else as the rows do."""
        told = exact(page.cursor)
        if told is not None or page.cursor:
            return told
        return min((created for row in page.rows if (created := row.created) is not None), default=None)
