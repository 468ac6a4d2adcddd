"""Opening the state: which files are refused or created, and what happens if somebody removes them."""

import errno
import os
import socket
import sqlite3
import stat

import pytest

from exporter.assembly import Clocks
from exporter.config import loads
from exporter.daemon import Daemon
from exporter.errors import StateError
from exporter.ledger.ledger import Ledger
from exporter.metrics.families import COLD_STARTS
from exporter.sources import KNOWN_NAMES
from exporter.state import lock as lock_module
from exporter.state.lock import Lock, LockedStateError, RefusedStateError
from exporter.state.opening import open_state
from exporter.state.schema import MIGRATIONS
from exporter.web.address import Address
from exporter.web.server import ListenError
from tests.core.ledger_harness import BASELINE, LedgerHarness, ended


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


STORES = []


def opened(path, **options):
    found = open_state(path, lambda: 5.0, **options)
    STORES.append(found.store)
    return found


@pytest.fixture(autouse=True)
def no_store_left_open():
    yield
    while STORES:
        if (store := STORES.pop()) is not None:
            store.close()


def contents(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def newer(path):
    opened(path).store.close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()


def of_another_program(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE dashboards (id INTEGER)")
        database.execute("PRAGMA user_version = 2")
    database.close()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (newer, "Run that version, restore the copy from before the upgrade, or move the file away"),
        (of_another_program, "give the exporter its own state.path"),
    ],
)
def test_a_state_for_another_version_is_refused_and_not_changed(path, make, cure, exclusive):
    make(path)
    before = contents(path.parent)
    with pytest.raises(RefusedStateError) as raised:
        opened(path, exclusive=exclusive)
    assert str(raised.value).startswith(f"{path}: ")
    assert cure in str(raised.value)
    assert contents(path.parent) == before


def test_an_empty_or_unfinished_file_is_a_new_state(path):
    path.touch()
    first = opened(path)
    assert first.cold_start == "new"
    first.store.close()
    assert opened(path).cold_start == ""

    class Full(sqlite3.Connection):
        def execute(self, statement, *rest):
            if statement.startswith("CREATE TABLE runs"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(statement, *rest)

    other = path.with_name("other.db")
    full = opened(other, exclusive=True, connect=lambda *a, **k: sqlite3.connect(*a, factory=Full, **k))
    assert (full.store, full.error) == (None, f"{other}: database or disk is full")
    after = opened(other, exclusive=True)
    assert after.cold_start == "new"
    after.store.close()


# --- places where no state can be ---


def a_folder(path):
    path.mkdir()
    return f"is a folder; name a file in it, like {path / 'jobrun-exporter.db'}"


def a_pipe(path):
    os.mkfifo(path)
    return "is not a file"


@pytest.mark.parametrize("make", [a_folder, a_pipe])
def test_a_path_that_is_not_a_file_is_reported_and_nothing_is_left_next_to_it(path, make):
    problem = make(path)
    found = opened(path, exclusive=True)
    assert (found.store, found.error) == (None, f"{path}: {problem}")
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_missing_folder_is_reported_with_the_fix(tmp_path):
    path = tmp_path / "a" / "b" / "state.db"
    found = opened(path, exclusive=True)
    assert found.store is None
    assert found.error.startswith(f"{path}: the folder {path.parent} does not exist; make it")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").touch()
    found = opened(tmp_path / "file" / "state.db", exclusive=True)
    assert found.error == f"{tmp_path / 'file' / 'state.db'}: {tmp_path / 'file'} is not a folder"


def test_a_relative_path_is_reported_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.db").mkdir()
    assert opened(type(tmp_path)("state.db")).error.startswith(f"{tmp_path / 'state.db'}: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("locked_part", ["folder", "file"])
def test_a_file_of_another_user_is_reported_with_both_users(tmp_path, locked_part):
    folder = tmp_path / "own"
    folder.mkdir(mode=0o755)
    path = folder / "state.db"
    opened(path).store.close()
    for each in (tmp_path, *tmp_path.parents):
        if str(each).startswith("/tmp/"):  # noqa: S108  # only the user of the tests may read pytest's folders
            each.chmod(each.stat().st_mode | 0o055)
    if locked_part == "file":
        folder.chmod(0o777)
    os.seteuid(65534)
    try:
        error = opened(path, exclusive=True).error
    finally:
        os.seteuid(0)
    named = f"the folder {folder}" if locked_part == "folder" else str(path)
    assert error.startswith(f"{path}: {named} cannot be written: it belongs to user 0 (")
    assert error.endswith("and this process runs as user 65534")


# --- who may read ---


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_no_other_user_may_read_the_state_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        found = opened(path, exclusive=True)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        found.store.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm"), 0o600)


# --- the lock ---


def test_a_second_process_is_refused_until_the_first_one_ends(path):
    first = opened(path, exclusive=True)
    for _ in range(2):
        with pytest.raises(LockedStateError, match="another jobrun-exporter uses this state"):
            opened(path, exclusive=True)
    first.store.close()
    opened(path, exclusive=True).store.close()


def test_the_same_state_by_another_name_is_refused(path):
    first = opened(path, exclusive=True)
    path.with_name("other.db").symlink_to(path)
    with pytest.raises(LockedStateError):
        opened(path.with_name("other.db"), exclusive=True)
    first.store.close()


def test_a_daemon_that_cannot_listen_releases_the_state(path):
    text = f"""
sources: [{{name: a, type: snowplow, organization_id: o, auth: {{api_key: a-key-of-its-own}}}}]
state: {{path: {path}}}
"""
    config = loads(text, {}, KNOWN_NAMES)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        daemon = Daemon(lambda: config, address, clocks=Clocks(), connect=sqlite3.connect)
        with pytest.raises(ListenError):
            daemon.start()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    opened(path, exclusive=True).store.close()


def test_no_lock_file_is_left_behind(path):
    opened(path, exclusive=True).store.close()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EWOULDBLOCK, LockedStateError, "another jobrun-exporter uses this state"),
        (errno.ENOLCK, StateError, "cannot be locked: No locks available; its disk cannot lock files"),
        (errno.ENOSYS, StateError, "cannot be locked: Function not implemented; its disk cannot lock files"),
        (errno.EOPNOTSUPP, StateError, "cannot be locked: Operation not supported; its disk cannot lock files"),
        (errno.EACCES, StateError, "cannot be locked: Permission denied"),
        (errno.EIO, StateError, "cannot be locked: Input/output error"),
    ],
)
def test_the_reason_why_a_state_cannot_be_locked_is_reported(path, number, kind, words):
    error = lock_module.lock_error(path, OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error).startswith(f"{path}: {words}")
    assert isinstance(error, RefusedStateError) is (number == errno.EWOULDBLOCK)


# --- files that somebody removes ---


@pytest.fixture
def harness(path):
    class Locked(LedgerHarness):
        def open(self, **changes):
            self.changes.update(changes)
            self.ledger = Ledger(lambda: open_state(self.path, lambda: self.now, exclusive=True))
            self.ledger.load()
            self.configure()

    harness = Locked(path)
    harness.read(ended("a"))
    yield harness
    harness.close()


PARTS = ("state.db", "state.db-wal", "state.db-shm")


@pytest.mark.parametrize("removed", [PARTS, *((part,) for part in PARTS)], ids="+".join)
def test_removed_files_are_reported_once_and_written_again_with_every_count(harness, removed):
    for name in removed:
        harness.path.with_name(name).unlink()
    with pytest.raises(StateError, match="removed while in use") as raised:
        harness.read(ended("b", BASELINE + 200))
    assert all(name in str(raised.value) for name in removed)
    harness.read(ended("b", BASELINE + 200))
    harness.read(ended("a"), ended("c", BASELINE + 300))
    assert harness.counts() == {"success": 3}
    assert {name for name in PARTS if harness.path.with_name(name).exists()} == set(PARTS)
    assert stat.S_IMODE(harness.path.stat().st_mode) == 0o600
    with pytest.raises(LockedStateError):
        Lock(harness.path)
    harness.reopen()
    harness.read(ended("a"), ended("b", BASELINE + 200), ended("c", BASELINE + 300))
    assert harness.counts() == {"success": 3}
    assert set(harness.ledger.committed.exporter.counts[COLD_STARTS]) == {"new"}


def test_files_removed_shortly_before_the_shutdown_are_written_again(harness):
    for name in PARTS:
        harness.path.with_name(name).unlink()
    harness.reopen()
    harness.read(ended("a"), ended("b", BASELINE + 200))
    assert harness.counts() == {"success": 2}


def test_a_file_that_replaced_the_state_is_never_written_to(harness, path):
    for name in PARTS:
        harness.path.with_name(name).unlink()
    path.write_bytes(b"")
    for _ in range(3):
        with pytest.raises(StateError, match="another file replaced it"):
            harness.read(ended("b", BASELINE + 200))
    assert path.read_bytes() == b""
    path.unlink()
    for _ in range(2):
        try:
            harness.read(ended("b", BASELINE + 200))
        except StateError as error:
            assert "removed" in str(error)  # noqa: PT017  # only the first one
    assert harness.counts() == {"success": 2}


def test_a_removed_folder_is_reported_until_it_exists_again(harness):
    folder = harness.path.parent
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    for _ in range(3):
        with pytest.raises(StateError):
            harness.read(ended("b", BASELINE + 200))
    folder.mkdir()
    harness.read(ended("b", BASELINE + 200))
    assert harness.counts() == {"success": 2}


def test_a_second_process_never_starts_on_restored_files(harness):
    for name in PARTS:
        harness.path.with_name(name).unlink()
    with pytest.raises(StateError):
        harness.read(ended("b", BASELINE + 200))
    harness.read(ended("b", BASELINE + 200))
    with pytest.raises(LockedStateError):
        opened(harness.path, exclusive=True)
