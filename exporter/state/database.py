"""The interface of a database connection: `sqlite3.Connection`, or a class that behaves the same."""

from collections.abc import Iterable
from typing import Any, Protocol


class Database(Protocol):
    """A connection that understands SQL with a question mark for each value."""

    def execute(self, query: str, values: Any = ..., /) -> Iterable[Any]:  # noqa: ANN401  # values of many types
        """Run a statement. Return its rows."""

    def executemany(self, query: str, rows: Any, /) -> object:  # noqa: ANN401  # as above
        """Run a statement for each row of values."""
