"""Checks whether a PostgreSQL database can hold the state, and whether it protects commits."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import psycopg

from exporter.errors import StateError
from exporter.state.connections import Pool, describe_url, parameters
from exporter.state.postgres import require_usable
from exporter.state.postgres_schema import ALL_TABLES

OLDEST = 13
"""The oldest version of PostgreSQL that is supported."""

GRANTS = "SELECT", "INSERT", "UPDATE", "DELETE"

QUERY = f"""
SELECT current_setting('server_version_num')::integer / 10000, pg_is_in_recovery(), current_setting('fsync'),
current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
coalesce(current_schema(), ''), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
(SELECT bool_and({" AND ".join(f"has_table_privilege(oid, '{each}')" for each in GRANTS)}) FROM pg_class
WHERE relname = ANY(ARRAY{[*ALL_TABLES]}) AND relkind = 'r' AND pg_table_is_visible(oid))
"""  # noqa: S608  # constants


class Settings(NamedTuple):
    """A row of QUERY. `may_write`: whether the user may write the tables; None if there are no tables."""

    version: int
    standby: bool
    fsync: str
    synchronous_commit: str
    standbys: str
    schema: str
    may_create: bool
    may_write: bool | None


def verify(url: str) -> Iterator[tuple[bool, str]]:
    """Connect to a database, and yield its problems: whether each is only a warning, and a sentence."""
    try:
        settings = _query_settings(url)
    except psycopg.Error as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        yield False, f"{describe_url(url)}: {lines[0]}"
        return
    yield from (found := list(problems(settings)))
    if all(harmless for harmless, _ in found):
        with closing(Pool(url)) as pool:
            try:
                require_usable(pool)
            except StateError as error:
                yield False, str(error)


def _query_settings(url: str) -> Settings:
    try:
        return _query_settings_with(url, parameters(url))
    except psycopg.OperationalError:
        # A standby refuses the default options, with an error that does not name the reason.
        return _query_settings_with(url, {**parameters(url), "target_session_attrs": "any"})


def _query_settings_with(url: str, options: Mapping[str, Any]) -> Settings:
    with psycopg.connect(url, **options) as connection:
        return Settings(*connection.execute(QUERY.encode()).fetchall()[0])


def problems(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Yield the problems of a database's settings: whether each is only a warning, and a sentence."""
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
    if settings.may_write is None and not settings.may_create:
        place = f"SCHEMA {settings.schema}" if settings.schema else "a schema of its search_path"
        yield False, f"the user has no permission to create tables: GRANT CREATE ON {place} TO the user of state.url"
    if settings.may_write is False:
        cure = f"GRANT {', '.join(GRANTS)} ON ALL TABLES IN SCHEMA {settings.schema} TO the user of state.url"
        yield False, f"the user has no permission to write the tables: {cure}"
    if not settings.standbys:
        yield True, "no synchronous standby: a failover may lose commits; their runs are read and counted again"
