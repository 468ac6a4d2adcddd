import sqlite3

import msgspec
import pytest

from exporter.counting import Known, Mark
from exporter.model import Job, Result, State, Window
from exporter.schema import COLUMNS, MIGRATIONS, StepMark, StoredRun, to_row
from exporter.state import JobState, SourceState
from exporter.store import Store
from tests.core.book import run

SOURCES = tuple(SourceState(name=name, identity=f"api of {name}", baseline=1.0) for name in ("s", "other"))
JOBS = tuple(
    JobState(
        key=key, source=source, job=Job(job_id=f"j{key}", name="j"), project="", name="j", discovered=0, baseline=0
    )
    for key, source in enumerate(("s", "s", "other"), start=1)
)


def row(run_id, job=1, mark=Mark.COUNTED, seen=900.0, **fields):
    fields.setdefault("result", None if mark is Mark.OPEN else Result.SUCCESS)
    return StoredRun(known=Known(run=run(run_id, **fields), mark=mark), job=job, seen=seen, origin=0.0)


def fill(store, **rows):
    with store.transaction():
        for source in SOURCES:
            store.put_source(source)
        store.put_jobs(JOBS)
        for source, each in rows.items():
            store.put_runs(source, each)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state.db")
    yield store
    store.close()


def test_what_started_in_a_window_is_found_whether_it_ended_or_not(store):
    fill(
        store,
        s=[
            row("ended", start=100, end=150),
            row("of another job", job=2, start=100, end=101),
            row("ended later", start=199, end=5000),
            row("without an end", start=120),
            row("open", start=130, mark=Mark.OPEN),
            row("before", start=99, end=150),
            row("after", start=200, end=201),
            row("open before", start=99, mark=Mark.OPEN),
        ],
        other=[row("of another source", job=3, start=100, end=150)],
    )
    found = store.started_between("s", Window(100, 200))
    assert found == {"ended", "of another job", "ended later", "without an end", "open"}


def test_what_ended_before_an_instant_is_forgotten_and_what_has_not_ended_never(store):
    kept = [
        row("at the instant", start=1, end=100),
        row("seen later", start=1, seen=100),
        row("open", start=1, seen=1, mark=Mark.OPEN),
        row("given up", start=1, seen=1, mark=Mark.GIVEN_UP),
        row("too old at the baseline", start=1, seen=1, mark=Mark.BASELINE, result=None),
        row("begun later", start=100, end=99),
    ]
    old = [row("ended", start=1, end=99), row("without an end", start=1, seen=99), row("second job", job=2, end=99)]
    fill(store, s=[*kept, *old], other=[row("of another source", job=3, end=99)])
    with store.transaction():
        assert store.prune("s", 100) == len(old)
    ids = {each.known.run.run_id for each in (*kept, *old)}
    assert store.runs("s", ids).keys() == {each.known.run.run_id for each in kept}
    assert store.count_runs("other") == {3: 1}


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


def test_a_run_is_the_same_when_it_comes_back_whether_all_is_known_of_it_or_nothing(store):
    times = {"created": 0.0, "scheduled": 1.0, "start": 2.0, "end": 3.0, "duration": 0.0, "queue_duration": 2.0}
    texts = {"unmapped": "HALTED", "error_type": "dbt", "recovered": True, "retries": 3, "state": State.EXECUTING}
    everything = StoredRun(
        known=Known(
            run=run("everything", result=Result.FAILURE, **times, **texts), mark=Mark.BASELINE, earlier=(0.5, 1.5)
        ),
        job=1,
        seen=900.0,
        origin=2.0,
        steps=StepMark.COUNTED,
        tries=2,
        asked=1,
        due=0.0,
        step_results="[]",
        words="HALTED",
    )
    nothing = StoredRun(known=Known(run=run("nothing"), mark=Mark.OPEN), job=1, seen=900.0, origin=0.0)
    fill(store, s=[everything, nothing])
    assert store.runs("s", ["everything", "nothing"]) == {"everything": everything, "nothing": nothing}
