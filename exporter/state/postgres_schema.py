"""The tables of `exporter.state.schema` in PostgreSQL, and their migrations."""

from collections.abc import Iterable
from typing import Any

from exporter.state.schema import COLUMNS, ENDED, FAILED

TYPES = {
    "job": "bigint",
    **dict.fromkeys(("mark", "retries", "recovered", "steps", "tries", "asked", "late"), "integer"),
    **dict.fromkeys(
        ("created", "scheduled", "start", '"end"', "duration", "queue_duration", "seen", "origin", "due"),
        "double precision",
    ),
}
"""Types of a run's columns that are not text."""

NAMES = tuple(name.strip() for name in COLUMNS.split(","))

REQUIRED = frozenset(
    ("run_id", "job", "job_id", "mark", "retries", "recovered", "seen", "origin", "steps", "tries", "asked", "late")
)

HISTORY = "left(pg_walfile_name(pg_current_wal_lsn()), 8)"
"""The history of the database. A failover begins a new one with a larger number."""

TABLES = ("exporter", "sources", "scopes", "notes", "jobs", "runs")
"""The tables whose size is the size of the state."""

ALL_TABLES = (*TABLES, "leases", "replicas", "schema_version")


def _column(name: str) -> str:
    # Texts are compared as in Python, independent of the database's locale.
    return f"""{name} {TYPES.get(name, 'text COLLATE "C"')}{" NOT NULL" if name in REQUIRED else ""}"""


def as_list(name: str, values: Iterable[Any]) -> list[Any]:
    """Return a column's values as a list of one type."""
    return list(map(float, values)) if TYPES.get(name) == "double precision" else list(values)


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE exporter (id integer PRIMARY KEY CHECK (id = 1), record bytea NOT NULL)",
        "INSERT INTO exporter VALUES (1, '{}')",
        """CREATE TABLE sources (key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,
            record bytea NOT NULL)""",
        """CREATE TABLE scopes (source bigint NOT NULL, name text NOT NULL, record bytea NOT NULL,
            PRIMARY KEY (source, name))""",
        """CREATE TABLE notes (source bigint NOT NULL, name text NOT NULL, note text NOT NULL,
            PRIMARY KEY (source, name))""",
        """CREATE TABLE jobs (key bigint PRIMARY KEY, source text NOT NULL, job_id text NOT NULL, record bytea NOT NULL,
            UNIQUE (source, job_id))""",
        # As in SQLite, a row that is written again gets a new rowid. Of two runs with the same end the later row wins.
        f"""CREATE TABLE runs (source bigint NOT NULL, {", ".join(map(_column, NAMES))},
            rowid bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (source, run_id))""",
        f"CREATE INDEX runs_of_job ON runs (job, ({ENDED}), result, mark) WHERE mark <> 0",
        f"CREATE INDEX runs_by_end ON runs (source, result, ({ENDED}), job) WHERE mark <> 0",
        "CREATE INDEX runs_open ON runs (source) WHERE mark = 0",
        f"""CREATE INDEX runs_without_steps ON runs
            (source, steps, ({FAILED}) DESC NULLS LAST, "end" DESC NULLS LAST) WHERE steps IN (1, 2)""",
        # Each transaction updates its source's row. Free space in a page keeps the new version next to the old one.
        """CREATE TABLE leases (source text PRIMARY KEY, holder text NOT NULL DEFAULT '',
            fence bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0, stamp bigint NOT NULL DEFAULT 0,
            until timestamptz NOT NULL DEFAULT 'epoch', history text NOT NULL DEFAULT 'new', committed timestamptz)
            WITH (fillfactor = 50)""",
        """CREATE TABLE replicas (name text PRIMARY KEY, seen timestamptz NOT NULL, served bytea NOT NULL DEFAULT '{}')
            WITH (fillfactor = 50)""",
    ),
    (
        """ALTER TABLE exporter ADD COLUMN size bigint NOT NULL DEFAULT 0,
            ADD COLUMN measured timestamptz NOT NULL DEFAULT 'epoch'""",
        # The default is the transaction's number, truncated to 32 bits like `xmin`.
        """ALTER TABLE leases ADD COLUMN written bigint NOT NULL
            DEFAULT (mod(pg_current_xact_id()::text::numeric, 4294967296)::bigint)""",
        "UPDATE leases SET written = DEFAULT",
    ),
    (
        # The newest history that a replica has noticed, and the time.
        """ALTER TABLE exporter ADD COLUMN history text NOT NULL DEFAULT '',
            ADD COLUMN noticed timestamptz NOT NULL DEFAULT 'epoch'""",
        f"UPDATE exporter SET history = {HISTORY}",  # noqa: S608  # constants
        # Seconds since each request that used the credential's budget, as JSON, and when that was written.
        """ALTER TABLE leases ADD COLUMN request_ages text NOT NULL DEFAULT '[]',
            ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT 'epoch'""",
    ),
)
"""Statements that migrate each version of the schema to the next. The table `schema_version` has the version."""

PUT_RUNS = (
    f"INSERT INTO runs (source, {COLUMNS}) SELECT ?, * FROM unnest("  # noqa: S608  # constants
    + ", ".join(f"?::{TYPES.get(name, 'text')}[]" for name in NAMES)
    + ") ON CONFLICT (source, run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in NAMES)
    + ", rowid = DEFAULT"
)
"""Statement that writes rows, given as one list per column."""
