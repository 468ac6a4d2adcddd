import pytest

from tests.core.ledger_harness import LedgerHarness


@pytest.fixture
def harness(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db")
    yield harness
    harness.close()
