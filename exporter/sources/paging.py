"""A guard against lists that never end: a page shown again, a cursor that goes to and fro, always one more page."""

from collections.abc import Collection, Hashable

from exporter.errors import SchemaError

MOST_PAGES = 1000
"""Pages of one list: with 100 rows each that is more than any account has."""


class PageGuard:
    """Checks the pages of one list, in the order in which they are read.

    Args:
        what: The list, as the error names it, for example "GET /recipes".
        most_pages: Pages that may be followed by another.
    """

    def __init__(self, what: str, most_pages: int = MOST_PAGES) -> None:
        self._what = what
        self._most_pages = most_pages
        self._pages = 0
        self._shown = set[Hashable]()
        self._following = set[Hashable]()

    def check(self, rows: Collection[Hashable], following: Hashable = None) -> None:
        """Check a page that is to be followed by another.

        Args:
            rows: What identifies its rows; an empty page is not checked for news.
            following: What the next page is asked for with, where that is not a number: a cursor, an offset.

        Raises:
            SchemaError: Earlier pages have shown all of these rows, an earlier page was followed by the same one, or
                there are too many pages.
        """
        self._pages += 1
        if rows and self._shown.issuperset(rows):
            raise SchemaError(f"{self._what}: the list does not end: page {self._pages} shows earlier rows again")
        if following is not None and following in self._following:
            raise SchemaError(f"{self._what}: the list does not end: page {self._pages} leads back to an earlier page")
        if self._pages >= self._most_pages:
            raise SchemaError(f"{self._what}: the list does not end: more than {self._pages} pages")
        self._shown.update(rows)
        self._following.add(following)
