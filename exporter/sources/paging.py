"""Detects lists that never end: repeated pages, cursors that lead back, too many pages."""

from collections.abc import Collection, Hashable

from exporter.errors import SchemaError

# Maximum number of pages of one list. With 100 rows per page, no account has as many.
MAX_PAGES = 1000


class PageGuard:
    """Checks the pages of one list, in the order in which they are read.

    Args:
        name: The list's name in errors, for example "GET /recipes".
        max_pages: Maximum number of pages before the last.
    """

    def __init__(self, name: str, max_pages: int = MAX_PAGES) -> None:
        self._name = name
        self._max_pages = max_pages
        self._pages = 0
        self._shown = set[Hashable]()
        self._cursors = set[Hashable]()

    def check(self, rows: Collection[Hashable], cursor: Hashable = None) -> None:
        """Check a page that is not the last.

        Args:
            rows: IDs of the page's rows; may be empty.
            cursor: Cursor or offset of the next page; None if pages are numbered.

        Raises:
            SchemaError: All rows were on earlier pages, an earlier page had this cursor, or there are too many pages.
        """
        self._pages += 1
        if rows and self._shown.issuperset(rows):
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} shows earlier rows again")
        if cursor is not None and cursor in self._cursors:
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} leads back to an earlier page")
        if self._pages >= self._max_pages:
            raise SchemaError(f"{self._name}: the list does not end: more than {self._pages} pages")
        self._shown.update(rows)
        self._cursors.add(cursor)
