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
