"""Reads Strait's lists page by page, newest first: a whole list, or the list of each status. Keeps the best rows."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from exporter.client.client import Client
from exporter.errors import ClientStatusError, SchemaError
from exporter.model import State
from exporter.sources.rest import PageGuard, StatusTable, best_row
from exporter.sources.strait.api import (
    Parser,
    StraitJob,
    StraitPage,
    StraitRun,
    cursor_at,
    cursor_from,
    exact_time,
    parse_page,
)
from exporter.sources.strait.kinds import RunKind

PAGE_SIZE = 100
"""Rows per page: the server's maximum."""

# Maximum number of pages of one list: enough for a million runs.
MAX_PAGES = 10_000

# Maximum number of consecutive pages without a new row. An API key of one environment gets such pages, because the
# server filters rows after it splits them into pages.
MAX_EMPTY_PAGES = 200

TOO_LARGE = 413

UNKNOWN_STATUS = frozenset({400, 422})
"""HTTP statuses with which the server refuses a run status that it does not know."""

ListRow = TypeVar("ListRow", StraitRun, StraitJob)


class PageReader(Generic[ListRow]):
    """Reads the pages of one endpoint.

    The server's cursor is the creation time of a page's last row, and excludes other rows created at the same time. So
    the next page is requested with a cursor one microsecond later, and repeats some rows. If a whole page has one time,
    further rows of this time may be hidden. The page then has the time as `burst`, and the next page shows older rows.
    """

    def __init__(self, client: Client, endpoint: str, parse: Parser[ListRow], *, max_pages: int = MAX_PAGES) -> None:
        self._client = client
        self._endpoint = endpoint
        self._parse: Parser[ListRow] = parse
        self._max_pages = max_pages
        self._page_size = PAGE_SIZE

    def pages(
        self, *, status: str = "", before: datetime | None = None, since: datetime | None = None
    ) -> Iterator[StraitPage[ListRow]]:
        """Yield the pages of rows created before `before`, up to the first page with a row created before `since`.

        A page may repeat rows of the page before. Raises SchemaError if the list does not end.
        """
        guard = PageGuard(f"GET {self._endpoint}", self._max_pages)
        start = "" if before is None else cursor_at(before)
        position, cursor, empty, shown = before, start, 0, set[str]()
        while True:
            page = self._page(cursor, status, first=cursor == start)
            last = self._last_created(page)
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
            position, cursor = exact_time(following), following

    def page_at(self, time: datetime, status: str) -> StraitPage[ListRow]:
        """Return the first page of the runs of a status that were created at a time or before.

        Its `burst` is set if it does not show all runs created at this time.
        """
        page = self._page(cursor_from(time), status)
        last = self._last_created(page)
        return msgspec.structs.replace(page, burst=time if page.more and last is not None and last >= time else None)

    def _page(self, cursor: str, status: str, *, first: bool = False) -> StraitPage[ListRow]:
        """Return one page. Its size is halved while the server responds that the page is too large."""
        while True:
            params: dict[str, str | int | float] = {"limit": self._page_size}
            params |= {"cursor": cursor} if cursor else {}
            params |= {"status": status} if status else {}
            try:
                body = self._client.get(self._endpoint, endpoint=self._endpoint, params=params)
            except ClientStatusError as error:
                if error.status != TOO_LARGE or self._page_size == 1:
                    raise
                self._page_size //= 2
                continue
            return parse_page(body, self._parse, self._page_size, first=first)

    def grow(self) -> None:
        """Double the size of pages, if it was halved."""
        self._page_size = min(PAGE_SIZE, 2 * self._page_size)

    def _last_created(self, page: StraitPage[ListRow]) -> datetime | None:
        """Return the creation time of a page's last row, from the cursor or from the rows."""
        time = exact_time(page.cursor)
        if time is not None or page.cursor:
            return time
        return min((row.created for row in page.rows if row.created is not None), default=None)


class StatusLists:
    """Reads runs by status, for the statuses that the server knows.

    Args:
        configured: The statuses in the config.
    """

    def __init__(self, kind: RunKind, configured: StatusTable, runs: PageReader[StraitRun]) -> None:
        # The server compares statuses exactly. So those of the config are only converted to lower case.
        meanings = {**kind.statuses, **{status.casefold(): meaning for status, meaning in configured.items()}}
        self._statuses = list(meanings)
        self.active_statuses = [status for status, meaning in meanings.items() if isinstance(meaning, State)]
        self._runs = runs
        self._accepted: set[str] = set()
        self._refused: set[str] = set()

    def retry_refused(self) -> None:
        """Request refused statuses again: the server may have been upgraded."""
        self._refused = set()

    def refuses(self, status: str) -> bool:
        """Return whether the server does not know a status."""
        return status in self._refused

    def pages(self, status: str, since: datetime | None = None) -> Iterator[StraitPage[StraitRun]]:
        """Yield the pages of a status; nothing if the server does not know the status, because it is older."""
        if status in self._refused:
            return
        try:
            for page in self._runs.pages(status=status, since=since):
                self._accepted.add(status)
                rows = _of_status(page.rows, status)
                yield msgspec.structs.replace(page, rows=rows)
                if page.rows and not rows:
                    break  # some servers ignore the filter
        except ClientStatusError as error:
            if error.status not in UNKNOWN_STATUS or status in self._accepted:
                raise
            self._refused.add(status)

    def pages_at(self, time: datetime) -> Iterator[StraitPage[StraitRun]]:
        """Yield the first page of runs created at a time or before, for each status."""
        for status in self._statuses:
            if status not in self._refused:
                try:
                    page = self._runs.page_at(time, status)
                    yield msgspec.structs.replace(page, rows=_of_status(page.rows, status))
                except ClientStatusError as error:
                    if error.status not in UNKNOWN_STATUS:
                        raise


def _of_status(rows: Iterable[StraitRun], status: str) -> list[StraitRun]:
    return [row for row in rows if row.status.casefold() == status]


class LatestRows(dict[str, StraitRun]):
    """The best row of each run that a poll has shown, by run ID. The order of rows does not matter.

    A run may appear on several lists, because it continues while they are read, and a response may be stale.
    """

    def __init__(self) -> None:
        super().__init__()
        self._new: dict[str, StraitRun] = {}

    def add(self, rows: Iterable[StraitRun]) -> None:
        """Add the rows of a response."""
        for row in rows:
            known = self.get(row.id)
            if known is None or (known != row and best_row((row, known), lambda each: each.run) is row):
                self[row.id] = self._new[row.id] = row

    def take_new(self) -> list[StraitRun]:
        """Return the rows that were added or replaced since the last call."""
        rows, self._new = list(self._new.values()), {}
        return rows

    def created_at(self, time: datetime) -> list[StraitRun]:
        """Return the rows of runs created at a time."""
        return [row for row in self.values() if row.created == time]
