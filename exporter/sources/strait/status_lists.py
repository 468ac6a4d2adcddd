"""Reads lists of runs by status."""

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from exporter.errors import ClientStatusError
from exporter.model import Result, State
from exporter.sources.rest import StatusTable
from exporter.sources.strait.api import StraitPage, StraitRun
from exporter.sources.strait.kinds import PartKind
from exporter.sources.strait.pages import Lists

BAD_REQUEST = frozenset({400, 422})
"""Status codes of responses to a status that the server does not know."""


class StatusLists:
    """Reads runs by status, for the statuses that the server knows.

    Args:
        configured: The statuses in the config.
    """

    def __init__(self, kind: PartKind, configured: StatusTable, runs: Lists[StraitRun]) -> None:
        # The server filters by exact statuses. So the config's statuses are only converted to lower case.
        words = {**kind.statuses, **{word.casefold(): meaning for word, meaning in configured.items()}}
        self.open_words = [word for word, meaning in words.items() if isinstance(meaning, State)]
        self.completed_words = [word for word, meaning in words.items() if isinstance(meaning, Result)]
        self._runs = runs
        self._accepted: set[str] = set()
        self._refused: set[str] = set()

    def retry_refused(self) -> None:
        """Request refused statuses again: the server may have been upgraded."""
        self._refused = set()

    def refuses(self, word: str) -> bool:
        """Return whether the server does not know a status."""
        return word in self._refused

    def pages(self, word: str, since: datetime | None = None) -> Iterator[StraitPage[StraitRun]]:
        """Yield the pages of a status; nothing if an older server does not know it."""
        if word in self._refused:
            return
        try:
            for page in self._runs.pages(status=word, since=since):
                self._accepted.add(word)
                rows = _of_status(page.rows, word)
                yield msgspec.structs.replace(page, rows=rows)
                if page.rows and not rows:
                    break  # some servers ignore the filter
        except ClientStatusError as error:
            if error.status not in BAD_REQUEST or word in self._accepted:
                raise
            self._refused.add(word)

    def pages_at(self, time: datetime) -> Iterator[StraitPage[StraitRun]]:
        """Yield the first page of runs created at a time or before, for each status."""
        for word in [*self.completed_words, *self.open_words]:
            if word in self._refused:
                continue
            try:
                page = self._runs.page_at(time, word)
            except ClientStatusError as error:
                if error.status not in BAD_REQUEST:
                    raise
                continue
            yield msgspec.structs.replace(page, rows=_of_status(page.rows, word))


def _of_status(rows: Iterable[StraitRun], word: str) -> list[StraitRun]:
    return [row for row in rows if isinstance(row.status, str) and row.status.casefold() == word]
