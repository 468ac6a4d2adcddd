import sqlite3

import msgspec

from exporter.counting import Mark
from exporter.schema import COLUMNS, MIGRATIONS, to_row
from exporter.store import Store
from tests.core.test_store_contract import JOBS, SOURCES, row


def test_a_state_of_any_earlier_schema_is_brought_to_this_one_and_loses_nothing(tmp_path):
    for version in range(1, len(MIGRATIONS)):
        path = tmp_path / f"{version}.db"
        rows = [row("ended", start=100, end=150), row("open", start=100, mark=Mark.OPEN)]
        write_as_of(version, path, rows)
        store = Store(path)
        loaded = store.load()
        assert loaded.sources == [SOURCES[0]]
        assert loaded.jobs == [JOBS[0]]
        assert loaded.open_runs == [("s", rows[1])]
        assert list(store.runs("s", ["ended", "open"]).values()) == rows
        store.close()
        assert shape(path) == shape_of_new(tmp_path)


def write_as_of(version, path, rows):
    """A state as the version of the program left it that had so many migrations."""
    database = sqlite3.connect(path)
    for script in MIGRATIONS[:version]:
        for statement in script:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {version}")
    encode = msgspec.json.encode
    database.execute("INSERT INTO sources (name, record) VALUES ('s', ?)", [encode(SOURCES[0])])
    database.execute("INSERT INTO jobs VALUES (1, 's', 'j1', ?)", [encode(JOBS[0])])
    marks = ", ".join("?" * len(to_row(rows[0])))
    database.executemany(
        f"INSERT INTO runs (source, {COLUMNS}) VALUES (1, {marks})",  # noqa: S608  # constants
        [to_row(each) for each in rows],
    )
    database.commit()
    database.close()


def shape_of_new(folder):
    path = folder / "new.db"
    Store(path).close()
    return shape(path)


def shape(path):
    """Everything that the schema holds, and its version."""
    database = sqlite3.connect(path)
    things = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    version = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return things, version
