"""A state that is copied between a file and PostgreSQL continues with the same counters."""

import io
import sqlite3
from contextlib import closing, nullcontext

import psycopg
import pytest

from exporter.commands.statecopy import copy
from exporter.counting.classify import CountState
from exporter.errors import StateError
from exporter.model import Result
from exporter.state.connections import Pool
from exporter.state.copying import copy_state
from exporter.state.leases import Leases
from exporter.state.lock import Lock
from exporter.state.postgres import KEY_BITS, PostgresStore
from exporter.state.store import Store
from tests.core.replica_harness import Member
from tests.core.test_store_contract import JOBS, SOURCES, fill, row
from tests.e2e.processes import Command, eventually

ROWS = [
    row("done", start=1.0, end=2.0),
    row("failed\0", start=3.0, end=4.0, result=Result.FAILURE, error_type="x"),
    row("at once", start=3.0, end=4.0),
    row("open", mark=CountState.OPEN, start=5.0),
]


@pytest.fixture
def path(tmp_path):
    """Return the path of a state with runs of two sources."""
    path = tmp_path / "state.db"
    for job in JOBS:
        job.count("jobrun_runs_total", "success", amount=job.key)
        job.distribution("jobrun_run_duration_seconds", bounds=(1.0,)).counts[0] += 3
    with closing(Store(path)) as store:
        store.load()
        fill(store, s=ROWS, other=[row("done", job=3, end=7.0)])
        with store.transaction():
            counted = store.load().exporter
            counted.count("jobrun_exporter_state_cold_starts_total", "new")
            store.put_exporter(counted)
    yield path
    for job in JOBS:
        job.counts.clear()
        job.distributions.clear()


def content(store):
    """Return all that a state holds, without the keys of jobs."""
    loaded = store.load()
    names = {job.key: (job.source, job.job.job_id) for job in loaded.jobs}
    jobs = [{"counts": job.counts, "buckets": job.distributions, "of": names[job.key]} for job in loaded.jobs]
    transaction = store.exclusive_transaction() if isinstance(store, PostgresStore) else nullcontext()
    with transaction:
        rows = [(names[each.job], each.run, each.mark, each.steps) for _, each in store.every_run()]
    return loaded.sources, jobs, sorted(rows, key=repr), loaded.exporter


def of_file(path):
    with closing(Store(path, read_only=True)) as store:
        return content(store)


def of_database(url):
    with closing(PostgresStore(Pool(url), migrates=False)) as store:
        return content(store)


def test_a_state_copied_into_a_database_and_back_is_unchanged(path, url):
    before = of_file(path)
    assert len(before[2]) == 5
    there = copy_state(str(path), url)
    assert of_database(url) == before
    back = path.with_name("back.db")
    assert copy_state(url, str(back)) == there
    assert of_file(back) == before
    assert of_file(path) == before
    assert (there["s"].runs, there["s"].active, there["s"].counted["jobrun_runs_total"]) == (4, 1, 3)


def test_copied_sources_that_are_not_in_the_config_can_be_pruned(path, url):
    copy_state(str(path), url)
    member = Member(url, "a", sources=("new",), groups=("new",))
    with closing(member.ledger), member.replica.holding_removed_sources():
        assert member.leases.held == {"s", "other", "new"}


def test_each_source_has_its_own_range_of_job_keys_in_a_database(path, url):
    copy_state(str(path), url)
    with closing(PostgresStore(Pool(url), migrates=False)) as store:
        keys = {job.source: job.key >> KEY_BITS for job in store.load().jobs}
        assert keys == store.source_keys()
    copy_state(url, str(path.with_name("back.db")))
    with closing(Store(path.with_name("back.db"))) as store:
        assert [job.key for job in store.load().jobs] == [1, 2, 3]


def test_a_state_of_an_older_version_is_copied_and_stays_as_it_is(tmp_path, url):
    path = tmp_path / "state.db"
    with closing(Store(path)) as store:
        store.load()
        fill(store, s=ROWS[:1])
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE scopes")
        database.execute("DROP TABLE notes")
        database.execute("PRAGMA user_version = 4")
    assert copy_state(str(path), url)["s"].runs == 1
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (4,)


# --- refusals: the message names the place and the cure, and neither state is changed ---


def refused(source, target, words):
    with pytest.raises(StateError, match=words) as raised:
        copy_state(str(source), str(target))
    return str(raised.value)


def test_a_file_that_a_daemon_uses_is_refused(path, url):
    lock = Lock(path)
    assert str(path) in refused(path, url, "another jobrun-exporter uses this state")
    lock.release()
    copy_state(str(path), url)


def test_a_file_that_exists_is_refused(path, url):
    copy_state(str(path), url)
    refused(url, path, "exists; name another file, or move this one away")
    assert len(of_file(path)[2]) == 5


@pytest.mark.parametrize("living", ["lease", "replica"])
def test_a_database_that_a_replica_uses_is_refused_as_source_and_target(path, url, tmp_path, living):
    copy_state(str(path), url)
    with closing(Pool(url)) as pool:
        leases = Leases(pool, "replica-a", lambda: 0.0)
        leases.create([("s", b"{}")])
        assert leases.take(["s"]) == [] if living == "lease" else leases.beat({}) == [{}]
        refused(url, tmp_path / "new.db", "in use by replica-a; stop all replicas first")
        refused(path, url, "in use by replica-a; stop all replicas first")
        assert not (tmp_path / "new.db").exists()
        leases.hand_back(["s"], lambda _source: [])
        leases.leave()
        copy_state(url, str(tmp_path / "new.db"))


def test_a_database_that_holds_a_state_is_refused(path, url):
    copy_state(str(path), url)
    before = of_database(url)
    refused(path, url, "already holds a state; name an empty database")
    assert of_database(url) == before


def test_a_place_without_a_state_is_refused(url, tmp_path):
    refused(tmp_path / "none.db", url, "none.db: there is no state")
    refused(url, tmp_path / "new.db", "there is no state; run the daemon first")
    with closing(Store(tmp_path / "empty.db")):
        pass
    refused(tmp_path / "empty.db", url, "empty.db: the state is empty")
    assert not (tmp_path / "new.db").exists()


def test_a_database_of_a_newer_version_is_refused(path, url, tmp_path):
    copy_state(str(path), url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    refused(url, tmp_path / "new.db", "a newer version wrote this state .schema 99; this version knows")
    refused(path, url, "schema 99")


def test_a_file_of_a_newer_version_or_another_program_is_refused(path, url, tmp_path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    refused(path, url, "schema 99; this version knows")
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE albums (id INTEGER)")
    refused(tmp_path / "other.db", url, "another program's database")


def test_a_database_of_another_program_is_refused(path, url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (id integer)")
    refused(path, url, "holds another program's tables")


def test_one_state_is_not_copied_onto_itself(path, url):
    refused(path, path.parent / "." / path.name, "name the same state")
    refused(url, url, "name the same state")
    copy_state(str(path), url)
    refused(url, f"{url}?application_name=other", "or --from and --to name the same database")


def test_a_copy_that_differs_is_rolled_back(path, url):
    copy_state(str(path), url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM jobs")
        connection.execute("DELETE FROM runs")
        connection.execute("DELETE FROM sources")
        # A target that stores other rows than it was given.
        connection.execute(
            "CREATE FUNCTION lose() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql;"
            "CREATE TRIGGER lose BEFORE INSERT ON runs FOR EACH ROW WHEN (NEW.run_id = 'done') EXECUTE FUNCTION lose()"
        )
    refused(path, url, "the copy differs in other, s; nothing was copied")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM sources").fetchone() == (0,)


def test_a_file_that_could_not_be_copied_whole_is_not_left_behind(path, url, tmp_path):
    copy_state(str(path), url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE runs SET job = 1")
    refused(url, tmp_path / "new.db", "a run belongs to no job")
    assert list(tmp_path.glob("new.db*")) == []


def test_a_damaged_row_is_refused(path, url):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE runs SET due = 'damaged'")
    refused(path, url, "a damaged row cannot be copied .ValueError.; nothing was copied")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM sources").fetchone() == (0,)


def test_a_copy_that_is_killed_leaves_no_state_and_can_be_repeated(path, url, tmp_path):
    copy_state(str(path), url)
    new = tmp_path / "new.db"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE runs RENAME TO kept")
        connection.execute("CREATE VIEW runs AS SELECT kept.* FROM kept, pg_sleep(600)")
        command = Command(tmp_path, "state", "copy", f"--from={url}", f"--to={new}")
        assert eventually(lambda: list(tmp_path.glob("new.db*-wal"))), command.output
        command.end()
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        connection.execute("DROP VIEW runs")
        connection.execute("ALTER TABLE kept RENAME TO runs")
    assert new.stat().st_size == 0
    copy_state(url, str(new))
    assert of_file(new) == of_database(url)
    assert {file.name for file in tmp_path.glob("new.db*")} - {"new.db-shm", "new.db-wal"} == {"new.db"}
    assert new.stat().st_mode & 0o077 == 0


def test_a_database_that_does_not_respond_is_named_without_its_password(path, postgres_server):
    url = postgres_server.url("nowhere").replace("jobrun@", "jobrun:sesame@")
    assert "sesame" not in refused(path, url, "nowhere")


# --- the command ---


def test_the_command_prints_what_was_copied_and_replaces_variables(path, url):
    out = io.StringIO()
    assert copy(str(path), "${STATE_URL}", {"STATE_URL": url}, out) == 0
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[:3] == [
        ["SOURCE", "JOBS", "RUNS", "ACTIVE", "COMPLETED"],
        ["s", "2", "4", "1", "3"],
        ["other", "1", "1", "0", "3"],
    ]
    assert "copied and verified" in out.getvalue()
    assert of_database(url)[0] == list(SOURCES)


def test_a_variable_that_is_not_set_is_named(path):
    with pytest.raises(StateError, match=r"--to: the environment variable STATE_URL is not set"):
        copy(str(path), "${STATE_URL}", {}, io.StringIO())
