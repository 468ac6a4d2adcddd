"""Behavior that only a state in a SQLite file has."""

import sqlite3
from contextlib import closing, suppress

import pytest

from exporter.counting.classify import CountState
from exporter.errors import StateError
from exporter.model import Result
from exporter.state.lock import Lock, LockedStateError, RefusedStateError
from exporter.state.schema import MIGRATIONS
from exporter.state.sql_runs import CorruptStateError
from exporter.state.store import Store, set_aside
from tests.core.test_migrations import left_by
from tests.core.test_store_contract import SOURCES, fill, row


class RecordingConnection(sqlite3.Connection):
    """A database that records its statements, and refuses given ones."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.said, self.refuses = [], None

    def execute(self, sql, *arguments):
        self.said.append(sql)
        if sql == self.refuses:
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *arguments)

    def setting(self, name):
        return super().execute(f"PRAGMA {name}").fetchone()[0]


class Opener:
    """Opens databases with `RecordingConnection`, and records them and their arguments."""

    def __init__(self):
        self.opened, self.requested = [], []

    def __call__(self, *arguments, **more):
        self.requested.append((arguments, more))
        self.opened.append(sqlite3.connect(*arguments, factory=RecordingConnection, **more))
        return self.opened[-1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def store(path, opener):
    store = Store(path, connect=opener)
    yield store
    store.close()


def closed(database):
    try:
        database.total_changes  # noqa: B018  # only checks that this thread may use the database
    except sqlite3.ProgrammingError:
        return True
    return False


def test_every_commit_is_on_disk_and_readers_delay_no_writer(path, opener):
    store = Store(path, connect=opener)
    (database,) = opener.opened
    assert database.setting("journal_mode") == "wal"
    assert database.setting("synchronous") == 2  # FULL
    assert database.setting("busy_timeout") == 5000
    assert database.isolation_level is None  # no transaction starts implicitly
    store.close()
    assert closed(database)


def test_a_store_may_be_used_by_another_thread_than_the_one_that_opened_it(path):
    wanted = {"check_same_thread": False, "isolation_level": None}
    opener = Opener()
    Store(path, connect=opener).close()
    Store(path, connect=opener, read_only=True).close()
    Store(path, connect=opener, read_only=True, immutable=True).close()
    assert opener.requested == [
        ((str(path),), wanted),
        ((f"file://{path}?mode=ro",), {"uri": True, **wanted}),
        ((f"file://{path}?mode=ro&immutable=1",), {"uri": True, **wanted}),
    ]


def test_a_state_may_be_in_memory():
    store = Store(":memory:")
    fill(store, s=[row("r", end=1)])
    assert store.count_runs("s") == {1: 1}
    assert store.path == ":memory:"
    store.close()


def test_a_new_file_has_the_newest_schema(path):
    Store(path).close()
    assert shape(path)[2] == len(MIGRATIONS)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_an_old_file_gets_the_schema_of_a_new_one(version, tmp_path):
    paths = left_by(version, tmp_path / "old.db"), tmp_path / "new.db"
    for path in paths:
        Store(path).close()
    assert shape(paths[0]) == shape(paths[1])


def shape(path):
    """All tables and indexes, the columns of the runs, and the version."""
    database = sqlite3.connect(path)
    things = database.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
    columns = sorted(row[1] for row in database.execute("PRAGMA table_info(runs)"))
    version = database.execute("PRAGMA user_version").fetchone()[0]
    database.close()
    return things, columns, version


def test_a_migration_that_fails_leaves_the_state_as_it_was(tmp_path):
    path = left_by(1, tmp_path / "state.db")
    before = shape(path)
    opener = Refusing(f"PRAGMA user_version = {len(MIGRATIONS)}")
    with pytest.raises(StateError, match="full"):
        Store(path, connect=opener)
    assert closed(opener.opened[0])
    assert shape(path) == before


class Refusing(Opener):
    """Opens databases that refuse one statement from the start."""

    def __init__(self, statement):
        super().__init__()
        self.statement = statement

    def __call__(self, *arguments, **more):
        database = super().__call__(*arguments, **more)
        database.refuses = self.statement
        return database


def test_a_newer_schema_is_refused_and_left_alone(path):
    Store(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    opener = Opener()
    with pytest.raises(RefusedStateError) as raised:
        Store(path, connect=opener)
    newest = len(MIGRATIONS)
    assert str(raised.value).startswith(
        f"{path}: a newer version wrote this state (schema {newest + 1}; this version knows {newest}). "
    )
    assert closed(opener.opened[0])


def test_a_file_that_is_not_a_database_is_corrupt(path):
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptStateError, match=f"^{path}: file is not a database$"):
        Store(path)


def test_damage_inside_a_file_is_found_when_it_is_opened(path):
    store = Store(path)
    fill(store, s=[row(f"run-{number}", end=number) for number in range(2000)])
    store.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(content)
    with pytest.raises(CorruptStateError, match=f"^{path}: ."):
        Store(path)


def test_a_record_that_cannot_be_read_is_corrupt(store, path):
    with store.transaction():
        store.put_source(SOURCES[0])
    database = sqlite3.connect(path)
    database.execute("UPDATE sources SET record = 'x'")
    database.commit()
    database.close()
    with pytest.raises(CorruptStateError):
        store.load()


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ("UPDATE sources SET name = 'else' WHERE key = 1", "a source's record has another name than its row"),
        ("DELETE FROM jobs", "a run belongs to no job"),
    ],
)
def test_inconsistent_records_are_corrupt_and_reported(edit, problem, store, path):
    fill(store, s=[row("open", mark=CountState.OPEN)])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(edit)
    with pytest.raises(CorruptStateError, match=f"^{path}: {problem}$"):
        store.load()


def test_runs_are_written_in_the_order_of_their_ids(store, path):
    fill(store, s=[row("c", job=1), row("a", job=2), row("b", job=1)])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT run_id FROM runs ORDER BY rowid").fetchall() == [("a",), ("b",), ("c",)]


def test_a_file_that_cannot_be_opened_is_an_error_of_the_state(tmp_path):
    with pytest.raises(StateError, match="unable to open") as raised:
        Store(tmp_path / "nowhere" / "state.db")
    assert not isinstance(raised.value, CorruptStateError)


@pytest.mark.parametrize("immutable", [False, True])
def test_a_state_opened_for_reading_is_never_written(path, immutable):
    with pytest.raises(StateError):
        Store(path, read_only=True, immutable=immutable)
    assert not path.exists()
    store = Store(path)
    fill(store, s=[row("r", mark=CountState.OPEN)])
    store.close()
    looking = Store(path, read_only=True, immutable=immutable)
    assert [row.run.run_id for _, row in looking.load().open_runs] == ["r"]
    with pytest.raises(StateError, match="readonly"), looking.transaction():
        looking.put_source(SOURCES[0])
    looking.close()


def test_a_state_opened_for_reading_is_not_migrated(tmp_path):
    path = left_by(1, tmp_path / "state.db")
    before = shape(path)
    Store(path, read_only=True).close()
    assert shape(path) == before


def test_a_path_with_url_characters_can_be_read(tmp_path):
    path = tmp_path / "what? #1 %41.db"
    Store(path).close()
    Store(path, read_only=True).close()


def test_a_failed_commit_is_rolled_back_and_the_next_one_succeeds(store, opener):
    fill(store)
    (database,) = opener.opened
    database.refuses = "COMMIT"
    with pytest.raises(StateError, match="full"), store.transaction():
        store.put_runs("s", [row("lost", end=1)])
    assert not database.in_transaction
    database.refuses = None
    with store.transaction():
        store.put_runs("s", [row("kept", end=1)])
    assert store.runs("s", ["lost", "kept"]).keys() == {"kept"}


def test_an_interruption_leaves_no_transaction_open(store, opener):
    fill(store)
    with suppress(KeyboardInterrupt), store.transaction():
        store.put_runs("s", [row("lost", end=1)])
        raise KeyboardInterrupt
    assert not opener.opened[0].in_transaction
    assert store.runs("s", ["lost"]) == {}


def test_an_error_that_already_rolled_back_is_reported_unchanged(store, opener):
    fill(store)
    (database,) = opener.opened
    with pytest.raises(ZeroDivisionError), store.transaction():
        divided_by_zero_after(database.execute("ROLLBACK"))
    assert database.said.count("ROLLBACK") == 1


def divided_by_zero_after(_done):
    raise ZeroDivisionError


def test_a_transaction_takes_the_write_lock_first(store, opener, path):
    (database,) = opener.opened
    database.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    stats = []
    with pytest.raises(StateError, match="locked"), store.transaction():
        stats.append("inside")
    assert stats == []
    other.close()


def test_a_source_keeps_its_key_no_matter_how_often_it_is_written(store):
    fill(store, s=[row("r", end=1)])
    with store.transaction():
        store.put_source(SOURCES[1])
        store.put_source(SOURCES[0])
    assert store.runs("s", ["r"])
    assert store.runs("other", ["r"]) == {}
    store.load()
    assert store.runs("s", ["r"])
    assert store.runs("other", ["r"]) == {}


def test_a_source_that_was_never_written_has_no_runs(store):
    fill(store, s=[row("r", end=1, mark=CountState.BASELINE)])
    assert (store.count_runs("nobody"), store.baseline_runs("nobody"), list(store.events("nobody"))) == ({}, [], [])
    with pytest.raises(KeyError):
        store.put_runs("nobody", [row("r")])


def test_runs_are_counted_by_job(store):
    fill(store, s=[row("a"), row("b"), row("c", job=2)], other=[row("d", job=3)])
    assert store.count_runs("s") == {1: 2, 2: 1}


def test_the_runs_of_the_baseline_are_found(store):
    others = [row(mark.name, end=2, mark=mark) for mark in CountState if mark is not CountState.BASELINE]
    rows = [row("before", end=1, mark=CountState.BASELINE), *others]
    fill(store, s=rows, other=[row("of another", job=3, end=1, mark=CountState.BASELINE)])
    assert store.baseline_runs("s") == rows[:1]


def test_the_history_of_a_job_is_its_completed_runs_newest_first(store):
    rows = [
        row("first", start=1, end=11),
        row("last", start=5, end=15, result=Result.FAILURE),
        row("open", start=20, mark=CountState.OPEN),
        row("given up", start=2, end=12, mark=CountState.EXPIRED, result=None),
        row("of another job", job=2, start=1, end=99),
    ]
    fill(store, s=rows)
    found = [(run.start, run.end, run.duration, run.result) for run in store.past_runs(1, 10)]
    assert found == [
        (5, 15, 10, Result.FAILURE),
        (2, 12, None, Result.UNKNOWN),
        (1, 11, 10, Result.SUCCESS),
    ]
    assert [run.end for run in store.past_runs(1, 2)] == [15, 12]


def test_the_activity_of_a_job_is_the_first_completion_of_each_bucket(store):
    ends = {1: (95, 100, 101, 109, 110, 125, 129), 2: (117,)}
    fill(store, s=[row(f"{job}-{end}", job=job, end=end) for job in ends for end in reversed(ends[job])])
    assert store.activity(1, 100, 10) == [100, 110, 125]
    assert store.activity(1, 101, 10) == [101, 110, 125]


def test_the_activity_of_a_run_without_an_end_is_when_it_was_seen_completed(store):
    never = [
        row("open", seen=120, mark=CountState.OPEN),
        row("given up", seen=130, mark=CountState.EXPIRED),
        row("too old at the baseline", seen=140, mark=CountState.BASELINE, result=None),
    ]
    fill(store, s=[row("without an end", seen=101), row("ended", seen=160, end=115), *never])
    assert store.activity(1, 100, 10) == [101, 115]


def test_times_of_a_source_are_ordered(store):
    rows = [
        row("a", created=1, start=3, end=5),
        row("b", created=3, start=3, end=3),
        row("c", start=2, mark=CountState.OPEN),
        row("d", created=4, mark=CountState.OPEN),
        row("given up", start=6, end=7, mark=CountState.EXPIRED, result=None),
    ]
    fill(store, s=rows, other=[row("of another", job=3, created=0, start=1, end=2)])
    assert sorted(store.events("s")) == [
        (1, 0, "a"),
        (2, 1, "c"),
        (3, 1, "a"),
        (3, 1, "b"),
        (3, 2, "b"),
        (5, 2, "a"),
        (6, 1, "given up"),
    ]
    assert [event[:2] for event in store.events("s")] == sorted(event[:2] for event in store.events("s"))


def test_the_size_is_that_of_the_file_after_the_journal_is_merged(path):
    store = Store(path)
    fill(store, s=[row(f"run-{number}", end=number) for number in range(500)])
    size = store.size()
    store.close()
    assert size == path.stat().st_size


def test_a_state_is_locked_until_it_is_released(path):
    first = Lock(path)
    with pytest.raises(LockedStateError) as raised:
        Lock(path)
    assert str(raised.value) == (
        f"{path}: another jobrun-exporter uses this state; stop it or give this one its own state.path"
    )
    first.release()
    Lock(path).release()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


def test_a_lock_never_empties_an_existing_file(path):
    path.write_text("a state")
    Lock(path).release()
    assert path.read_text() == "a state"


def test_a_lock_in_a_missing_folder_is_an_error_of_the_state(tmp_path):
    path = tmp_path / "nowhere" / "state.db"
    with pytest.raises(StateError) as raised:
        Lock(path)
    assert str(raised.value) == f"{path}: cannot be locked: No such file or directory"
    assert not isinstance(raised.value, LockedStateError)


@pytest.mark.parametrize("endings", [("",), ("", "-wal", "-shm")])
def test_a_state_is_set_aside_with_its_journals(path, endings):
    for ending in endings:
        path.with_name(f"state.db{ending}").write_text(ending)
    kept = set_aside(path, "corrupt-1")
    assert kept == path.with_name("state.db.corrupt-1")
    there = {each.name: each.read_text() for each in path.parent.iterdir()}
    assert there == {f"state.db.corrupt-1{ending}": ending for ending in endings}
