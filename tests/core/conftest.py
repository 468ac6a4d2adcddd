import psycopg
import pytest

from tests.core.ledger_harness import Failing, LedgerHarness


@pytest.fixture(autouse=True)
def no_database_left_open():
    """Close what a test that stops a ledger halfway leaves open."""
    yield
    while Failing.opened:
        Failing.opened.pop().close()


@pytest.fixture
def harness(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db")
    yield harness
    harness.close()


@pytest.fixture
def url(postgres_server):
    """Return the URL of an empty database."""
    return postgres_server.new_database()


@pytest.fixture
def admin(url):
    """Return a connection to the database, each of whose statements is committed at once."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
