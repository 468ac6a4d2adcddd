"""Reads Strait's lists page by page, newest first."""

from collections.abc import Iterator
from datetime import datetime
from typing import Generic

import msgspec

from exporter.client.client import Client
from exporter.errors import ClientStatusError, SchemaError
from exporter.sources.paging import PageGuard
from exporter.sources.strait.api import RowKind, StraitPage, cursor_at, cursor_from, exact, parse_page

PAGE_SIZE = 100
"""Rows per page: the server's maximum."""

# Maximum number of pages of one list: enough for a million runs.
MAX_PAGES = 10_000

# Maximum number of consecutive pages without a new row. An API key of one environment gets such pages, because the
# server filters rows after it splits them into pages.
MAX_EMPTY_PAGES = 200

TOO_LARGE = 413


class Lists(Generic[RowKind]):
    """Reads the pages of one endpoint.

    The server's cursor is the creation time of a page's last row, and excludes other rows created at the same time. So
    the next page is requested with a cursor one microsecond later, and repeats some rows. If more rows than fit on a
    page have the same time, the page has it as `burst`, and the list continues before that time.

    Args:
        max_pages: Maximum number of pages of a list.
    """

    def __init__(
        self, client: Client, endpoint: str, decoder: msgspec.json.Decoder[RowKind], *, max_pages: int = MAX_PAGES
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._decoder = decoder
        self._max_pages = max_pages
        self._limit = PAGE_SIZE

    def pages(
        self, *, status: str = "", before: datetime | None = None, since: datetime | None = None
    ) -> Iterator[StraitPage[RowKind]]:
        """Yield the pages of rows created before `before`, up to the first page with a row created before `since`.

        Pages may repeat rows of the previous page. Raises SchemaError if the list does not end.
        """
        guard = PageGuard(f"GET {self._endpoint}", self._max_pages)
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
                raise SchemaError(f"GET {self._endpoint}: there are more rows, but no cursor to them")
            ids = {row.id for row in page.rows}
            empty = empty + 1 if ids <= shown else 0
            goes_back = last is not None and position is not None and last >= position
            if goes_back or empty > MAX_EMPTY_PAGES:
                raise SchemaError(f"GET {self._endpoint}: the list does not end: it shows earlier rows again")
            guard.check(ids if last is None else (), following)
            shown |= ids
            position, cursor = exact(following), following

    def page_at(self, time: datetime, status: str) -> StraitPage[RowKind]:
        """Return the first page of a status, from a time backwards. `burst` is set if there are more such rows."""
        page = self._page(cursor_from(time), status)
        last = self._last(page)
        return msgspec.structs.replace(page, burst=time if page.more and last is not None and last >= time else None)

    def _page(self, cursor: str, status: str, *, first: bool = False) -> StraitPage[RowKind]:
        """Return one page. Its size is halved while the server responds that it is too large."""
        self._limit = min(PAGE_SIZE, self._limit)
        while True:
            params: dict[str, str | int | float] = {"limit": self._limit}
            params |= {"cursor": cursor} if cursor else {}
            params |= {"status": status} if status else {}
            try:
                body = self._client.get(self._endpoint, endpoint=self._endpoint, params=params)
            except ClientStatusError as error:
                if error.status != TOO_LARGE or self._limit == 1:
                    raise
                self._limit //= 2
                continue
            return parse_page(body, self._decoder, self._limit, first=first)

    def grow(self) -> None:
        """Allow larger pages again."""
        self._limit = min(PAGE_SIZE, 2 * self._limit)

    def _last(self, page: StraitPage[RowKind]) -> datetime | None:
        """Return the creation time of a page's last row, from the cursor or from the rows."""
        time = exact(page.cursor)
        if time is not None or page.cursor:
            return time
        return min((created for row in page.rows if (created := row.created) is not None), default=None)
