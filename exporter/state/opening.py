"""Opens a state. It may be new, damaged, unwritable, or of another version."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from exporter.errors import StateError
from exporter.state.files import make_private, problem_of
from exporter.state.lock import Lock, RefusedStateError
from exporter.state.schema import MIGRATIONS
from exporter.state.sql import LoadedState, SqlStore
from exporter.state.sql_runs import CorruptStateError
from exporter.state.store import MEMORY, Connect, Store, newer, set_aside


class OpenedState(msgspec.Struct, kw_only=True):
    """A state that was opened.

    Attributes:
        store: The store; None if the state cannot be written. `error` says why.
        cold_start: Why the state starts empty, `new` or `corrupt`; "" if it does not.
        kept: New path of a damaged file that was set aside.
    """

    store: SqlStore | None
    loaded: LoadedState = msgspec.field(default_factory=LoadedState)
    cold_start: str = ""
    kept: Path | None = None
    error: str = ""


def open_state(
    path: Path, clock: Callable[[], float], connect: Connect = sqlite3.connect, *, exclusive: bool = False
) -> OpenedState:
    """Open or create a state. A damaged one is set aside under a name with the time, never deleted.

    `path`: the file, or MEMORY for a temporary state. `exclusive`: whether to lock the state until the store is closed.
    Raises RefusedStateError if another process uses it, a newer version wrote it, or it belongs to another program.
    """
    if str(path) == MEMORY:
        store = Store(path, connect=connect)
        return OpenedState(store=store, loaded=store.load(), cold_start="new")
    path = path.absolute()
    if problem := problem_of(path):
        return OpenedState(store=None, loaded=load_unwritable(path), error=f"{path}: {problem}")
    refuse_foreign(path)
    try:
        return _open_or_set_aside(path, clock, connect, Lock(path) if exclusive else None)
    except RefusedStateError:
        raise
    except StateError as error:
        return OpenedState(store=None, loaded=load_unwritable(path), error=str(error))


def _open_or_set_aside(path: Path, clock: Callable[[], float], connect: Connect, lock: Lock | None) -> OpenedState:
    kept = None
    try:
        try:
            return _open(path, connect, lock)
        except CorruptStateError as error:
            kept = _set_aside(path, f"corrupt-{int(clock())}", error)
        if lock is not None:
            lock.renew()
        opened = _open(path, connect, lock)
    except BaseException as error:
        if lock is not None:
            lock.release()
        if kept is None or not isinstance(error, StateError):
            raise
        opened = OpenedState(store=None, error=str(error))
    opened.cold_start, opened.kept = "corrupt", kept
    return opened


def _set_aside(path: Path, suffix: str, error: CorruptStateError) -> Path:
    try:
        return set_aside(path, suffix)
    except OSError as failure:
        raise StateError(f"{error}; it cannot be set aside: {failure.strerror}") from failure


def _open(path: Path, connect: Connect, lock: Lock | None) -> OpenedState:
    try:
        make_private(path)
    except OSError as error:
        raise StateError(f"{path}: cannot be created: {error.strerror}") from error
    store = Store(path, connect=connect, lock=lock)
    try:
        return OpenedState(store=store, loaded=store.load(), cold_start="new" if store.is_new else "")
    except StateError:
        store.close()
        raise


def refuse_foreign(path: Path) -> None:
    """Raise RefusedStateError if another program or a newer version wrote a file. Changes nothing."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return  # the file is missing, damaged or unreadable, which opening it reports
    if tables and not {"exporter", "sources", "jobs", "runs"} <= tables:
        raise RefusedStateError(
            f"{path.absolute()}: is another program's database; give the exporter its own state.path"
        )
    if version > len(MIGRATIONS):
        raise RefusedStateError(newer(path.absolute(), version))


def problem_of_state(path: Path) -> str:
    """Return why a state could not be opened for writing; "" if no reason is known. Changes nothing."""
    if reason := problem_of(path.absolute()):
        return f"{path.absolute()}: {reason}"
    try:
        refuse_foreign(path)
    except RefusedStateError as error:
        return str(error)
    return ""


def load_unwritable(path: Path) -> LoadedState:
    """Return the records of a state that cannot be written; empty if they cannot be read."""
    for immutable in (False, True) if os.path.isfile(path) else ():  # noqa: PTH113  # raises nothing; opening a pipe would wait for a writer
        with suppress(StateError), closing(Store(path, read_only=True, immutable=immutable)) as store:
            return store.load()
    return LoadedState()
