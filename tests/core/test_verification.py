"""`check --live` reports what could make a database lose counts."""

from contextlib import closing

import psycopg
import pytest

from exporter.state.connections import Pool
from exporter.state.location import problem_of_url
from exporter.state.postgres import PostgresStore
from exporter.state.verification import Settings, problems, verify
from tests import postgres
from tests.e2e.processes import HOST, free_port

GOOD = Settings(
    version=13,
    standby=False,
    fsync="on",
    synchronous_commit="on",
    standbys="FIRST 1 (b)",
    schema="public",
    may_create=True,
    may_write=None,
)
LOSSY = (True, "no synchronous standby: a failover may lose commits; their runs are read and counted again")


def test_a_database_with_a_synchronous_standby_has_no_problem():
    assert list(problems(GOOD)) == []
    assert list(problems(GOOD._replace(synchronous_commit="remote_apply"))) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"version": 12}, "PostgreSQL 12 is too old; at least 13 is needed"),
        ({"standby": True}, "is a standby; name the primary"),
        ({"fsync": "off"}, "fsync is off"),
        ({"synchronous_commit": "off"}, "synchronous_commit is off"),
        ({"synchronous_commit": "local"}, "synchronous_commit is local"),
        ({"may_create": False}, "GRANT CREATE ON SCHEMA public"),
        ({"may_create": False, "schema": ""}, "GRANT CREATE ON a schema of its search_path"),
        ({"may_write": False}, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"),
    ],
)
def test_a_setting_that_may_lose_counts_is_an_error(changed, words):
    ((harmless, sentence),) = problems(GOOD._replace(**changed))
    assert (harmless, words in sentence) == (False, True)


def test_a_failover_that_could_lose_commits_is_a_warning(postgres_server):
    assert list(problems(GOOD._replace(standbys=""))) == [LOSSY]
    assert list(verify(postgres_server.new_database())) == [LOSSY]


def test_a_database_that_does_not_wait_for_the_disk_is_an_error(postgres_server):
    url = postgres_server.new_database()
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    assert [harmless for harmless, _ in verify(url)] == [False, True]


def refused(url):
    """Return the sentence of the only error."""
    (sentence,) = [sentence for harmless, sentence in verify(url) if not harmless]
    return sentence


def test_a_user_without_rights_is_refused_before_a_daemon_starts(postgres_server):
    url = postgres_server.new_database()
    weak = url.replace("jobrun@", "weak@")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN")
        assert "no permission to create tables: GRANT CREATE ON SCHEMA public" in refused(weak)
        with closing(Pool(url)) as pool:
            PostgresStore(pool)
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO weak")
        assert "no permission to write the tables" in refused(weak)
        connection.execute("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO weak")
        assert list(verify(weak)) == [LOSSY]


def test_a_database_that_refuses_writes_is_an_error(postgres_server):
    url = postgres_server.new_database()
    with postgres_server.connect() as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert "session is read-only" in refused(url)


@pytest.mark.parametrize("statement", ["CREATE TABLE jobs ()", "CREATE TABLE schema_version (version text)"])
def test_a_database_of_another_program_is_an_error(postgres_server, statement):
    url = postgres_server.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
    assert "holds another program's tables" in refused(url)


def test_a_database_with_an_encoding_that_lacks_characters_is_an_error(postgres_server):
    url = postgres_server.new_database("ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    assert "has the encoding LATIN1; create a database with UTF8" in refused(url)


def test_a_standby_is_named_as_one(postgres_server):
    with postgres.standby(postgres_server) as standby:
        assert (False, "is a standby; name the primary") in list(verify(standby.url()))
        both = f"postgresql://jobrun@{HOST}:{standby.port},{HOST}:{postgres_server.port}/postgres"
        assert list(verify(both)) == [LOSSY]
        assert list(verify(f"{both}?target_session_attrs=any")) == [LOSSY]


def test_a_database_that_does_not_respond_is_named_without_its_password():
    port = free_port()
    ((harmless, sentence),) = verify(f"postgresql://jobrun:sesame@{HOST}:{port}/jobrun")
    assert not harmless
    assert sentence.startswith(f"postgresql://{HOST}:{port}/jobrun: ")
    assert "refused" in sentence
    assert "sesame" not in sentence


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://db/jobrun", "must begin with postgresql://"),
        ("postgresql://jobrun@db", "must name a database"),
        ("postgresql://u:p%zz@db/jobrun", "is not a valid URL"),
        ("postgresql://u:se@same@db/jobrun", "has special characters in its user or password: percent-encode them"),
        ("postgresql://u:se/same@db/jobrun", "has special characters in its user or password: percent-encode them"),
        ("postgresql://jobrun@db:port/jobrun", "has a port that is not a number"),
        ("postgresql://u:se%40same@db,db2:5433/jobrun", ""),
        ("postgresql://jobrun@db/jobrun", ""),
    ],
)
def test_a_url_that_names_no_database_is_refused_before_connecting(url, words):
    assert problem_of_url(url).startswith(words)
    assert bool(problem_of_url(url)) == bool(words)
