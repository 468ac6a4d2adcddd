"""Rows whose id could not be read: a moment later they may be right, so they are waited for, but not for ever."""

import math

from exporter.model import Window

MOST_POLLS = 3
"""Polls that wait. A row that stays as it is, is waited for once: not again before a poll had no such row."""


def counted(polls: int, rows: int) -> int:
    """In how many polls in a row there were such rows, after one with so many of them."""
    return min(polls + 1, MOST_POLLS + 1) if rows else 0


def awaited(polls: int) -> bool:
    """Whether they are waited for after so many polls in a row that had some."""
    return 0 < polls <= MOST_POLLS


class Waiting:
    """Keeps the watermark of a source that reads windows from passing those with such rows, so that they come again."""

    def __init__(self) -> None:
        self._polls = 0
        self._rows = 0
        self._first = math.inf

    def begin(self) -> None:
        """A poll begins."""
        self._rows, self._first = 0, math.inf

    def note(self, window: Window, rows: int) -> None:
        """A window had so many of them. Windows come oldest first."""
        self._rows += rows
        if rows and awaited(counted(self._polls, rows)):
            self._first = min(self._first, window.start)

    def through(self, proven: float) -> float:
        """Up to where all is read, where it would be up to `proven` but for such rows."""
        return min(proven, self._first)

    def end(self) -> None:
        """All windows of the poll have been read."""
        self._polls = counted(self._polls, self._rows)
