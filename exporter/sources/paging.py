"""Guard against lists that never end: a repeated page, a cursor that goes back and forth, always one more page."""

from collections.abc import Collection, Hashable

from exporter.errors import SchemaError

# Pages of one list: with 100 rows each, more than any account has.
MAX_PAGES = 1000


class PageGuard:
    """Checks the pages of one list, in the order in which they are read.

    Args:
        name: The list's name in errors, for example "GET /recipes".
        max_pages: Pages that may be followed by another.
    """

    def __init__(self, name: str, max_pages: int = MAX_PAGES) -> None:
        self._name = name
        self._max_pages = max_pages
        self._pages = 0
        self._shown = set[Hashable]()
        self._following = set[Hashable]()

    def check(self, rows: Collection[Hashable], following: Hashable = None) -> None:
        """Check a page that is to be followed by another.

        Args:
            rows: The IDs of its rows; an empty page is not checked for new ones.
            following: The cursor or offset of the next page, if it is not a number.

        Raises:
            SchemaError: Earlier pages have shown all of these rows, an earlier page was followed by the same one, or
                there are too many pages.
        """
        self._pages += 1
        if rows and self._shown.issuperset(rows):
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} shows earlier rows again")
        if following is not None and following in self._following:
            raise SchemaError(f"{self._name}: the list does not end: page {self._pages} leads back to an earlier page")
        if self._pages >= self._max_pages:
            raise SchemaError(f"{self._name}: the list does not end: more than {self._pages} pages")
        self._shown.update(rows)
        self._following.add(following)
