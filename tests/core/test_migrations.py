"""Migrations of the state of each earlier version."""

import json
import sqlite3
from pathlib import Path

import pytest

from exporter.counting.classify import CountState
from exporter.errors import StateError
from exporter.model import Result, State
from exporter.state.opening import load_unwritable, open_state
from exporter.state.schema import MIGRATIONS, StepState
from exporter.state.store import Store
from tests.core.ledger_harness import BASELINE, RUNS, Failing, LedgerHarness, ended

DUMPS = Path(__file__).parent / "testdata"


def left_by(version, path):
    """Return a state as written by a version of the schema."""
    database = sqlite3.connect(path)
    database.executescript((DUMPS / f"schema-{version}.sql").read_text())
    database.close()
    return path


def contents(path):
    """All rows of all tables, and the version."""
    database = sqlite3.connect(path)
    names = "run_id, job, job_id, mark, result, state, unmapped, start, end, duration, error_type, seen, origin, steps"
    quoted = names.replace(" end,", ' "end",')
    found = {
        "runs": sorted(database.execute(f"SELECT {quoted}, step_results, words FROM runs")),  # noqa: S608  # constants
        **{name: sorted(database.execute(f"SELECT * FROM {name}")) for name in ("jobs", "sources", "exporter")},  # noqa: S608  # constants
    }
    version = database.execute("PRAGMA user_version").fetchone()[0]
    database.close()
    return found, version


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_state_of_every_earlier_version_is_migrated_without_losing_anything(version, tmp_path):
    path = left_by(version, tmp_path / "state.db")
    before, was = contents(path)
    opened = open_state(path, lambda: 0.0)
    assert opened.store is not None
    opened.store.close()
    after, now = contents(path)
    assert (was, now) == (version, len(MIGRATIONS))
    assert (opened.cold_start, opened.kept) == ("", None)
    assert after == before
    assert len(after["runs"]) == 7


def test_counting_continues_where_the_earlier_version_stopped(tmp_path):
    harness = LedgerHarness(left_by(1, tmp_path / "state.db"))
    assert harness.counts() == {"success": 1, "failure": 1}
    assert harness.row("before").mark is CountState.BASELINE
    assert harness.row("bad").steps is StepState.COUNTED
    assert harness.row("open").run.state is State.EXECUTING
    harness.now = BASELINE + 500
    harness.read(
        ended("bad", end=BASELINE + 40, result=Result.FAILURE, error_type="server"), ended("open"), ended("new")
    )
    assert harness.counts() == {"success": 3, "failure": 1}
    harness.close()


@pytest.mark.parametrize("immutable", [False, True])
def test_a_state_of_an_earlier_version_that_cannot_be_written_is_still_read(immutable, tmp_path):
    path = left_by(1, tmp_path / "state.db")
    store = Store(path, read_only=True, immutable=immutable)
    loaded = store.load()
    store.close()
    assert {row.run.run_id for _, row in loaded.open_runs} == {"open", "still", "odd"}
    assert {job.name: job.counts[RUNS]["success"].value for job in loaded.jobs} == {"j": 1, "k": 1}


def test_a_completion_after_the_watermark_is_marked_as_such_for_good(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db")
    harness.read(ended("old", end=BASELINE - 5))
    harness.now = BASELINE + 1000
    harness.read(ended("right", end=BASELINE + 900))
    harness.read(ended("late", end=BASELINE + 300), ended("right", end=BASELINE + 900, result=Result.FAILURE))
    harness.reopen()
    harness.read(ended("late", end=BASELINE + 300, error_type="x"))
    assert harness.row("late").late
    assert not harness.row("right").late
    assert not harness.row("old").late
    harness.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_the_first_write_of_a_scope_keeps_all_scopes_and_checkpoints_of_an_earlier_version(version, tmp_path):
    path = left_by(version, tmp_path / "state.db")
    with sqlite3.connect(path) as database:
        (record,) = database.execute("SELECT record FROM sources").fetchone()
        source = json.loads(record)
        source["scopes"]['odd "name" \\ ö\n'] = {"baseline": 5.0, "watermark": 7.0, "complete": True}
        source["notes"] = {"page": "7", "other": "8"}
        database.execute("UPDATE sources SET record = ?", (json.dumps(source, ensure_ascii=False).encode(),))
    database.close()
    before = load_unwritable(path).sources[0]
    assert len(before.scopes) == 2
    harness = LedgerHarness(path)
    assert harness.ledger.source("s").scopes == before.scopes
    Failing.fails = True
    with pytest.raises(StateError):
        harness.read(checkpoints={"page": "9"})
    Failing.fails = False
    for page in ("10", "11"):
        harness.read(checkpoints={"page": page, "other": "8"})
        harness.reopen()
        state = harness.ledger.source("s")
        assert state.scopes.keys() == before.scopes.keys()
        assert state.scopes['odd "name" \\ ö\n'].watermark == 7.0
        assert state.checkpoints == {"page": page, "other": "8"}
    harness.close()
