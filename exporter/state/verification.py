"""Checks that a database cannot lose acknowledged commits."""

from collections.abc import Iterator

from exporter.errors import StateError
from exporter.state.connections import Pool

OLDEST = 13
"""The oldest version of PostgreSQL that is supported."""

QUERY = """
SELECT current_setting('server_version_num')::integer / 10000, pg_is_in_recovery(), current_setting('fsync'),
current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
has_schema_privilege(current_schema(), 'CREATE') OR to_regclass('schema_version') IS NOT NULL
"""


def verify(url: str) -> Iterator[tuple[bool, str]]:
    """Connect, and yield problems of the database: whether it is only a warning, and a sentence."""
    pool = Pool(url)
    try:
        with pool.session() as session:
            version, standby, fsync, commit, standbys, may_create = session.execute(QUERY)[0]
    except StateError as error:
        yield False, str(error)
        return
    finally:
        pool.close()
    if version < OLDEST:
        yield False, f"PostgreSQL {version} is too old; at least {OLDEST} is needed"
    if standby:
        yield False, "is a standby; name the primary"
    if fsync != "on":
        yield False, "fsync is off: a crash of the server would corrupt the state; switch it on"
    if commit in {"off", "local"}:
        yield False, f"synchronous_commit is {commit}: a crash or failover would lose counts; set it to on"
    if not may_create:
        yield False, "the user may not create tables: GRANT CREATE ON SCHEMA public TO the user of state.url"
    if not standbys:
        yield True, "no synchronous standby: a failover may lose commits; their runs are read and counted again"
