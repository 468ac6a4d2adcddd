"""Opening the state whatever condition it is in."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from exporter.counting.records import Counted
from exporter.errors import StateError
from exporter.state.storage import Loaded, Storage
from exporter.state.store import Connect, CorruptStateError, NewerSchemaError, Store, set_aside


class Opened(msgspec.Struct, kw_only=True):
    """A state that was opened.

    Attributes:
        store: The store; None if it can only be read, or not even that.
        loaded: What it holds.
        cold: `new`, `lost` or `corrupt` if it begins empty, else "".
        kept: Where the file that could not be used has been put.
        fault: Why there is no store.
    """

    store: Storage | None
    loaded: Loaded
    cold: str = ""
    kept: Path | None = None
    fault: str = ""


def open_state(path: Path, clock: Callable[[], float], connect: Connect = sqlite3.connect) -> Opened:
    """Opens a state, new if there is none; one that cannot be used is set aside, never deleted."""
    cold = "" if path.exists() and path.stat().st_size else "new"
    try:
        return _open(path, connect, cold=cold)
    except (CorruptStateError, NewerSchemaError) as error:
        cold = "lost" if isinstance(error, NewerSchemaError) else "corrupt"
        try:
            kept = set_aside(path, f"{cold}-{int(clock())}")
        except OSError as fault:
            return Opened(store=None, loaded=_nothing(), fault=f"{error}; it cannot be set aside: {fault.strerror}")
    except StateError as error:
        return Opened(store=None, loaded=look(path), fault=str(error))
    try:
        opened = _open(path, connect, cold=cold)
    except StateError as error:
        opened = Opened(store=None, loaded=_nothing(), cold=cold, fault=str(error))
    opened.kept = kept
    return opened


def _open(path: Path, connect: Connect, *, cold: str) -> Opened:
    store = Store(path, connect=connect)
    try:
        return Opened(store=store, loaded=store.load(), cold=cold)
    except StateError:
        store.close()
        raise


def look(path: Path) -> Loaded:
    """What can be read of a state that cannot be written; nothing if not even that is possible."""
    for immutable in (False, True):
        try:
            store = Store(path, read_only=True, immutable=immutable)
        except StateError:
            continue
        try:
            return store.load()
        except StateError:
            continue
        finally:
            store.close()
    return _nothing()


def _nothing() -> Loaded:
    return Loaded(sources=[], jobs=[], open_runs=[], exporter=Counted())
