"""Crashes a simulated process at a chosen statement, commit or clock read."""

import sqlite3
from typing import Any, Literal

CrashPoint = Literal["any statement", "transaction statement", "commit", "clock read"]
"""Before any statement; before a statement in a transaction; right after a COMMIT; at a clock read."""


class Killed(BaseException):
    """The process has crashed. No `except Exception` of the exporter catches this."""


class CrashInjector:
    """Makes a simulated process crash. A crashed process no longer changes its files."""

    def __init__(self) -> None:
        self.dead = False
        self._point: CrashPoint | None = None
        self._left = 0
        self._in_transaction = False
        self._connections: list[_Connection] = []

    def arm(self, point: CrashPoint, number: int) -> None:
        """Plan a crash at the n-th point of this kind."""
        self._point, self._left = point, number

    def disarm(self) -> bool:
        """Cancel the planned crash. Return whether one was planned."""
        armed, self._point = self._point is not None, None
        return armed

    def connect(self, *arguments: object, **options: object) -> sqlite3.Connection:
        """Open the database. The store calls this instead of `sqlite3.connect`."""
        connection = sqlite3.connect(*arguments, factory=_Connection, **options)  # type: ignore[call-overload]  # as the caller passed them
        connection.crash_injector = self
        self._connections.append(connection)
        return connection

    def close_connections(self) -> None:
        """Close the connections of a crashed process. This may change its files, so copy them before."""
        for connection in self._connections:
            sqlite3.Connection.close(connection)

    def on_clock_read(self) -> None:
        """Crash if this clock read is the planned point."""
        self._reach("clock read")

    def before_statement(self, statement: str) -> None:
        """Crash if this statement is the planned point."""
        self._reach("any statement")
        if self._in_transaction:
            self._reach("transaction statement")
        self._in_transaction = self._in_transaction or statement.startswith("BEGIN")

    def after_statement(self, statement: str) -> None:
        """Crash if this statement is the COMMIT that is the planned point."""
        if statement.startswith(("COMMIT", "ROLLBACK")):
            self._in_transaction = False
            if statement == "COMMIT":
                self._reach("commit")

    def _reach(self, point: CrashPoint) -> None:
        if self.dead:
            raise Killed
        if self._point == point:
            self._left -= 1
            if self._left <= 0:
                self.dead = True
                raise Killed


class _Connection(sqlite3.Connection):
    """A connection that reports each statement to its crash injector."""

    crash_injector: CrashInjector

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # as the caller passed them
        self.crash_injector.before_statement(sql)
        cursor = super().execute(sql, *parameters)
        self.crash_injector.after_statement(sql)
        return cursor

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # as the caller passed them
        self.crash_injector.before_statement(sql)
        return super().executemany(sql, *parameters)

    def close(self) -> None:
        if not self.crash_injector.dead:
            super().close()
