import pytest

from tests.queries.reports_harness import ReportsHarness


@pytest.fixture
def make(tmp_path):
    """Yield a function that makes harnesses, and close them at the end."""
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
