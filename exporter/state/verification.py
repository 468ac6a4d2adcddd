"""Checks that the settings of a database protect acknowledged commits."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import psycopg

from exporter.state.connections import defaults, describe_url

OLDEST = 13
"""The oldest version of PostgreSQL that is supported."""

QUERY = """
SELECT current_setting('server_version_num')::integer / 10000, pg_is_in_recovery(), current_setting('fsync'),
current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
has_schema_privilege(current_schema(), 'CREATE') OR to_regclass('schema_version') IS NOT NULL
"""


class Settings(NamedTuple):
    """The columns of QUERY."""

    version: int
    standby: bool
    fsync: str
    synchronous_commit: str
    standbys: str
    may_create: bool


def verify(url: str) -> Iterator[tuple[bool, str]]:
    """Connect to a database and yield its problems: whether it is only a warning, and a sentence."""
    try:
        settings = _ask(url)
    except psycopg.Error as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        yield False, f"{describe_url(url)}: {words[0]}"
    else:
        yield from problems(settings)


def _ask(url: str) -> Settings:
    try:
        return _ask_one(url, defaults(url))
    except psycopg.OperationalError:
        # A standby refuses the default options, with an error that does not name the reason.
        return _ask_one(url, {**defaults(url), "target_session_attrs": "any"})


def _ask_one(url: str, options: Mapping[str, Any]) -> Settings:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None, **options) as connection:
        return Settings(*connection.execute(QUERY.encode()).fetchall()[0])


def problems(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Yield the problems of a database's settings: whether it is only a warning, and a sentence."""
    if settings.version < OLDEST:
        yield False, f"PostgreSQL {settings.version} is too old; at least {OLDEST} is needed"
    if settings.standby:
        yield False, "is a standby; name the primary"
    if settings.fsync != "on":
        yield False, "fsync is off: a crash of the server would corrupt the state; switch it on"
    if settings.synchronous_commit in {"off", "local"}:
        yield (
            False,
            f"synchronous_commit is {settings.synchronous_commit}: a crash or failover would lose counts; set it to on",
        )
    if not settings.may_create:
        yield False, "the user may not create tables: GRANT CREATE ON SCHEMA public TO the user of state.url"
    if not settings.standbys:
        yield True, "no synchronous standby: a failover may lose commits; their runs are read and counted again"
