"""The interface of a database connection: `sqlite3.Connection`, or a class that behaves the same."""

from collections.abc import Iterator
from typing import Any, Protocol


class Rows(Protocol):
    """The result of a statement."""

    def fetchone(self) -> Any:  # noqa: ANN401  # a row has columns of many types
        """Return the next row."""

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the remaining rows."""


class Database(Protocol):
    """A connection that understands SQL with a question mark for each value."""

    def execute(self, query: str, values: Any = ..., /) -> Rows:  # noqa: ANN401  # values of many types
        """Run a statement."""

    def executemany(self, query: str, rows: Any, /) -> object:  # noqa: ANN401  # as above
        """Run a statement for each row of values."""
