"""The tables of the state, their migrations, and the conversion between runs and rows."""

import enum
import json
import math
from collections.abc import Sequence
from typing import Any

from exporter.counting.classify import CountState, RunRecord
from exporter.model import Result, Run, State


class StepState(enum.IntEnum):
    """Progress of a run's steps."""

    NONE = 0
    PENDING = 1
    BASELINE = 2
    COUNTED = 3
    LOST = 4


class StoredRun(RunRecord, frozen=True, gc=False, kw_only=True):
    """A run's row.

    Attributes:
        job: Key of the run's job.
        seen: When the row last changed.
        origin: Time from which the run's age counts.
        steps: Progress of the run's steps.
        tries: Number of requests for the steps.
        incomplete: Number of incomplete responses to them.
        due: When the steps are requested next; None if they are not requested.
        step_results: Counted steps as JSON: `[[name, result, seconds], …]`; None before they are counted.
        statuses: Unmapped statuses of the run, one per line.
        late: Whether the watermark was already past the run's end when its completion was seen.
    """

    job: int
    seen: float
    origin: float
    steps: StepState = StepState.NONE
    tries: int = 0
    incomplete: int = 0
    due: float | None = None
    step_results: str | None = None
    statuses: str = ""
    late: bool = False

    @property
    def ended_at(self) -> float:
        """Return when the run ended, or when its completion was seen."""
        return self.seen if self.run.end is None else self.run.end


FAILED = "(result IN ('error', 'failure', 'timeout'))"
"""SQL condition that a run failed. The text is the same as in an index, so that queries use the index."""

ENDED = 'coalesce("end", seen)'
"""SQL expression of a run's end, or of the time its completion was seen, as in the indexes."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE exporter (id INTEGER PRIMARY KEY CHECK (id = 1), record BLOB NOT NULL)",
        "CREATE TABLE sources (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL)",
        """CREATE TABLE jobs (key INTEGER PRIMARY KEY, source TEXT NOT NULL, job_id TEXT NOT NULL,
            record BLOB NOT NULL, UNIQUE (source, job_id))""",
        """CREATE TABLE runs (source INTEGER NOT NULL, run_id TEXT NOT NULL, job INTEGER NOT NULL,
            job_id TEXT NOT NULL, mark INTEGER NOT NULL, result TEXT, state TEXT, unmapped TEXT,
            created REAL, scheduled REAL, start REAL, "end" REAL, duration REAL, queue_duration REAL,
            retries INTEGER NOT NULL, recovered INTEGER NOT NULL, error_type TEXT, earlier TEXT,
            seen REAL NOT NULL, origin REAL NOT NULL, steps INTEGER NOT NULL, tries INTEGER NOT NULL,
            asked INTEGER NOT NULL, due REAL,
            step_results TEXT, words TEXT)""",
        # Rows are stored in the order of arrival. If the ID were the key, each new run would rewrite another page.
        "CREATE UNIQUE INDEX runs_by_id ON runs (source, run_id)",
        'CREATE INDEX runs_of_job ON runs (job, "end")',
        "CREATE INDEX runs_by_start ON runs (source, start)",
        "CREATE INDEX runs_open ON runs (source) WHERE mark = 0",
        "CREATE INDEX runs_without_steps ON runs (source, due) WHERE steps IN (1, 2)",
    ),
    (
        # Each index takes a tenth of the time to write a new run. The index by job and end serves these queries too.
        "DROP INDEX runs_by_start",
        "ALTER TABLE runs ADD COLUMN late INTEGER NOT NULL DEFAULT 0",
        # Pages list runs by their end. Runs that do not match a filter are skipped within the index.
        'CREATE INDEX runs_of_job_by_end ON runs (job, coalesce("end", seen), result) WHERE mark <> 0',
        'CREATE INDEX runs_by_end ON runs (source, result, coalesce("end", seen), job) WHERE mark <> 0',
    ),
    (
        # One index of a job's runs by their end replaces two.
        "DROP INDEX runs_of_job",
        "DROP INDEX runs_of_job_by_end",
        'CREATE INDEX runs_of_job ON runs (job, coalesce("end", seen), result, mark) WHERE mark <> 0',
    ),
    (
        # The order is the one in which steps are fetched, so that queries need not sort.
        "DROP INDEX runs_without_steps",
        f'CREATE INDEX runs_without_steps ON runs (source, steps, {FAILED} DESC, "end" DESC) WHERE steps IN (1, 2)',
    ),
    (
        # A source may have thousands of scopes, and each batch changes one.
        """CREATE TABLE scopes (source INTEGER NOT NULL, name TEXT NOT NULL, record BLOB NOT NULL,
            PRIMARY KEY (source, name)) WITHOUT ROWID""",
        """CREATE TABLE notes (source INTEGER NOT NULL, name TEXT NOT NULL, note TEXT NOT NULL,
            PRIMARY KEY (source, name)) WITHOUT ROWID""",
    ),
)
"""Statements that migrate each version of the schema to the next. SQLite's `user_version` has the version."""

LATE_SINCE = 2
"""The first version of the schema with `late`."""

COLUMNS = (
    'run_id, job, job_id, mark, result, state, unmapped, created, scheduled, start, "end", duration, queue_duration,'
    " retries, recovered, error_type, earlier, seen, origin, steps, tries, asked, due, step_results, words, late"
)


def columns(version: int) -> str:
    """Return COLUMNS for a version of the schema. A state on a read-only disk cannot be migrated."""
    return COLUMNS if version >= LATE_SINCE else COLUMNS.replace(", late", ", 0")


NULL = math.nan
"""Stands for NULL. SQLite stores NaN as NULL, and Python's sqlite3 binds NaN 20 times as fast as None."""


def to_row(stored: StoredRun) -> tuple[Any, ...]:
    """Return the values of COLUMNS for a run."""
    run = stored.run
    return (
        run.run_id,
        stored.job,
        run.job_id,
        int(stored.mark),
        NULL if run.result is None else run.result.value,
        NULL if run.state is None else run.state.value,
        run.unmapped or NULL,
        NULL if run.created is None else run.created,
        NULL if run.scheduled is None else run.scheduled,
        NULL if run.start is None else run.start,
        NULL if run.end is None else run.end,
        NULL if run.duration is None else run.duration,
        NULL if run.queue_duration is None else run.queue_duration,
        run.retries,
        int(run.recovered),
        run.error_type or NULL,
        json.dumps(stored.earlier) if stored.earlier else NULL,
        stored.seen,
        stored.origin,
        int(stored.steps),
        stored.tries,
        stored.incomplete,
        NULL if stored.due is None else stored.due,
        stored.step_results or NULL,
        stored.statuses or NULL,
        int(stored.late),
    )


def to_stored(row: Sequence[Any]) -> StoredRun:
    """Return the run for the values of COLUMNS."""
    (
        run_id, job, job_id, mark, result, state, unmapped, created, scheduled, start, end, duration, queue_duration,
        retries, recovered, error_type, earlier, seen, origin, steps, tries, asked, due, step_results, words, late,
    ) = row  # fmt: skip
    run = Run(
        run_id=run_id,
        job_id=job_id,
        result=Result(result) if result else None,
        state=State(state) if state else None,
        unmapped=unmapped or "",
        created=created,
        scheduled=scheduled,
        start=start,
        end=end,
        duration=duration,
        queue_duration=queue_duration,
        retries=retries,
        recovered=bool(recovered),
        error_type=error_type or "",
    )
    return StoredRun(
        run=run,
        mark=CountState(mark),
        earlier=tuple(json.loads(earlier)) if earlier else (),
        job=job,
        seen=seen,
        origin=origin,
        steps=StepState(steps),
        tries=tries,
        incomplete=asked,
        due=due,
        step_results=step_results,
        statuses=words or "",
        late=bool(late),
    )
