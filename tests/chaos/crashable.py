"""A process that can crash at any statement or clock read, and a disk that can be full."""

import os
import resource
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Literal

from tests.e2e.processes import mount, runs_as_root, unmount

Place = Literal["anything", "statement", "commit", "glance"]
"""Before any statement, or before one in a transaction; right after a COMMIT; at a clock read."""


class Killed(BaseException):
    """The process has crashed. No `except Exception` may catch it."""


class Crashable:
    """A simulated process. After a crash it no longer changes its files."""

    def __init__(self) -> None:
        self.dead = False
        self._place: Place | None = None
        self._left = 0
        self._inside = False
        self._connections: list[_Connection] = []

    def arm(self, place: Place, number: int) -> None:
        """Crash at the n-th of these places."""
        self._place, self._left = place, number

    def disarm(self) -> bool:
        """Do not crash anymore; return whether a crash was planned."""
        armed, self._place = self._place is not None, None
        return armed

    def connect(self, *arguments: object, **options: object) -> sqlite3.Connection:
        """Open the database; the store calls this instead of `sqlite3.connect`."""
        connection = sqlite3.connect(*arguments, factory=_Connection, **options)  # type: ignore[call-overload]  # as they came
        connection.crashable = self
        self._connections.append(connection)
        return connection

    def bury(self) -> None:
        """Close what the system would close for a crashed process. Its files must have been copied before."""
        for connection in self._connections:
            sqlite3.Connection.close(connection)

    def snapshot(self) -> None:
        """Note a clock read."""
        self._reach("glance")

    def before(self, statement: str) -> None:
        self._reach("anything")
        if self._inside:
            self._reach("statement")
        self._inside = self._inside or statement.startswith("BEGIN")

    def after(self, statement: str) -> None:
        if statement.startswith(("COMMIT", "ROLLBACK")):
            self._inside = False
            if statement == "COMMIT":
                self._reach("commit")

    def _reach(self, place: Place) -> None:
        if self.dead:
            raise Killed
        if self._place == place:
            self._left -= 1
            if self._left <= 0:
                self.dead = True
                raise Killed


class _Connection(sqlite3.Connection):
    """A connection of a crashable process."""

    crashable: Crashable

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # passed on as they came
        self.crashable.before(sql)
        cursor = super().execute(sql, *parameters)
        self.crashable.after(sql)
        return cursor

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # passed on as they came
        self.crashable.before(sql)
        return super().executemany(sql, *parameters)

    def close(self) -> None:
        if not self.crashable.dead:
            super().close()


class Disk:
    """The folder of states: a small file system where mounting is allowed, so that it can really be full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._own = runs_as_root() and mount("-t", "tmpfs", "-o", "size=256m", "none", str(folder))
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.full = False

    def fill(self, *, by_limit: bool) -> str:
        """Fill the disk; return in which way."""
        self.full = True
        if self._own and not by_limit and self._resize(self._used()):
            return "disk full"
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self._limit[1]))
        return "files may not grow"

    def free(self) -> None:
        """Make room again."""
        if self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
            if self._own:
                self._resize(256 * 1024 * 1024)
        self.full = False

    def _used(self) -> int:
        usage = os.statvfs(self.folder)
        return (usage.f_blocks - usage.f_bfree) * usage.f_frsize

    def _resize(self, size: int) -> bool:
        return mount("-o", f"remount,size={max(size, 4096)}", str(self.folder))

    def close(self) -> None:
        self.free()
        if self._own:
            unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def copied(state: Path, folder: Path) -> Path:
    """Copy the files of a state, journals included, to a new folder; return the path of the copy."""
    folder.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        part = state.with_name(state.name + suffix)
        if part.exists():
            shutil.copyfile(part, folder / part.name)
    return folder / state.name
