import pytest

from tests.queries.reports_harness import ReportsHarness


@pytest.fixture
def make(tmp_path):
    """Makes harnesses, and ends them."""
    harnesses = []

    def build(*arguments, **more):
        folder = tmp_path / str(len(harnesses))
        folder.mkdir()
        harnesses.append(ReportsHarness(folder, *arguments, **more))
        return harnesses[-1]

    yield build
    for harness in harnesses:
        harness.close()


@pytest.fixture
def harness(make):
    return make()
