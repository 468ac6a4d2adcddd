"""Behavior that only a state in PostgreSQL has."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from exporter.errors import StateError
from exporter.queries.shared_reader import opened
from exporter.state.connections import Pool, describe_url
from exporter.state.lock import RefusedStateError
from exporter.state.postgres import PostgresStore
from tests.core.test_store_contract import fill, row
from tests.e2e.processes import HOST, eventually, free_port


@pytest.fixture
def pool(url):
    pool = Pool(url)
    yield pool
    pool.close()


def test_an_id_with_a_nul_is_found_although_postgresql_text_cannot_contain_it(pool):
    store = PostgresStore(pool)
    store.load()
    ids = ["a\0b", "a\1b", "a\1\2b", "\0", "\1"]
    fill(store, s=[row(each, start=1, end=2) for each in ids])
    assert store.runs("s", ids).keys() == set(ids)


def test_replicas_that_start_together_create_the_tables_once(url):
    pools = [Pool(url) for _ in range(4)]
    with ThreadPoolExecutor() as threads:
        stores = list(threads.map(PostgresStore, pools))
    assert sorted(store.is_new for store in stores) == [False, False, False, True]
    for pool in pools:
        pool.close()


def test_a_database_of_a_newer_version_or_another_program_is_refused(url, pool):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (id integer)")
        with pytest.raises(RefusedStateError, match="another program's tables"):
            PostgresStore(pool)
        connection.execute("DROP TABLE runs")
        PostgresStore(pool)
        connection.execute("UPDATE schema_version SET version = 99")
        with pytest.raises(RefusedStateError, match="schema 99"):
            PostgresStore(pool)


def test_a_locked_row_fails_one_transaction_after_two_seconds_and_the_next_succeeds(url, pool):
    store = PostgresStore(pool)
    store.load()
    fill(store, s=[row("r", end=1)])
    with psycopg.connect(url) as locking:
        locking.execute("SELECT 1 FROM sources WHERE name = 's' FOR UPDATE")
        with pytest.raises(StateError, match="lock timeout"):
            fill(store)
    fill(store)


def test_a_connection_that_the_server_has_ended_fails_one_use(url, pool):
    store = PostgresStore(pool)
    store.load()
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(StateError):
        store.load()
    assert store.load().sources == []


def test_nothing_is_written_outside_of_a_transaction(pool):
    store = PostgresStore(pool)
    store.load()
    with pytest.raises(StateError, match="outside"):
        store.delete_jobs([1])


def test_errors_never_show_the_password(postgres_server):
    url = postgres_server.url("nowhere").replace("jobrun@", "jobrun:sesame@")
    pool = Pool(url)
    with pytest.raises(StateError) as caught:
        PostgresStore(pool)
    assert "sesame" not in f"{caught.value!r} {caught.value.__cause__!r} {pool.name}"
    pool.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db/jobrun", "postgresql://db/jobrun"),
        ("postgresql://u:p@a:1,b:2/jobrun?password=q", "postgresql://a:1,b:2/jobrun"),
        ("postgresql://u:p%zz@db/jobrun", "postgresql"),
        ("postgresql://u:se@same@db/jobrun", "postgresql"),
        ("postgresql://u:se/same@db/jobrun", "postgresql"),
    ],
)
def test_a_url_is_shown_without_credentials(url, shown):
    assert describe_url(url) == shown


def test_an_error_says_why_the_database_cannot_be_reached():
    pool = Pool(f"postgresql://user:secret@{HOST}:{free_port()}/jobrun")
    with closing(pool), pytest.raises(StateError, match="Connection refused") as caught, pool.session():
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["extra_float_digits = -3", "client_encoding = 'LATIN1'", "bytea_output = 'escape'"]
)
def test_a_default_of_the_database_does_not_change_what_is_stored(postgres_server, url, setting):
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET {setting}")
    rows = [row("r\u65e5", start=1764378162.123457, end=1764378199.987654, error_type="\u00e9")]
    with closing(Pool(url)) as pool:
        store = PostgresStore(pool)
        store.load()
        fill(store, s=rows)
        assert store.runs("s", ["r\u65e5"]) == {"r\u65e5": rows[0]}


def test_a_transaction_is_read_committed_where_serializable_is_the_default(postgres_server, url):
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = serializable")
    with closing(Pool(url)) as pool:
        PostgresStore(pool)
        with pool.transaction() as session:
            assert session.execute("SHOW transaction_isolation") == [("read committed",)]


def test_a_replaced_user_or_password_is_used_for_new_connections_and_another_database_is_not(postgres_server, url):
    with postgres_server.connect() as connection:
        connection.execute("CREATE ROLE replaced LOGIN")
    current = [url]
    with closing(Pool(url, lambda: current[0])) as pool:

        def user():
            pool.reconnect()
            with pool.session() as session:
                return session.execute("SELECT current_user::text, current_database()::text")[0]

        name = url.rpartition("/")[2]
        assert user() == ("jobrun", name)
        current[0] = url.replace("jobrun@", "replaced:sesame@")
        assert eventually(user, ("replaced", name).__eq__)
        current[0] = postgres_server.new_database()
        assert {user() for _ in range(5)} == {("replaced", name)}


def test_a_command_names_a_database_without_a_state(url):
    with pytest.raises(RefusedStateError, match="there is no state; run the daemon first"):
        opened(url)


def test_a_host_that_does_not_answer_before_the_primary_is_no_error(postgres_server, url):
    name = url.rpartition("/")[2]
    with socket.create_server((HOST, 0)) as mute:
        hosts = f"{HOST}:{mute.getsockname()[1]},{HOST}:{postgres_server.port}"
        with closing(Pool(f"postgresql://jobrun@{hosts}/{name}?connect_timeout=4")) as pool:
            assert PostgresStore(pool).load().sources == []
