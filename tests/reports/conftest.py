import pytest

from tests.reports.reports_harness import Desk


@pytest.fixture
def make(tmp_path):
    """Makes desks, and ends them."""
    desks = []

    def build(*arguments, **more):
        folder = tmp_path / str(len(desks))
        folder.mkdir()
        desks.append(Desk(folder, *arguments, **more))
        return desks[-1]

    yield build
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(make):
    return make()
