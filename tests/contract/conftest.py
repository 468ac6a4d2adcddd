import pytest

from exporter.simulators import SIMULATORS
from tests.contract.harness import Bench


@pytest.fixture(params=sorted(SIMULATORS))
def make(request, tmp_path):
    """Makes benches of one vendor after another, and ends them."""
    benches = []

    def build(**more):
        folder = tmp_path / str(len(benches))
        folder.mkdir()
        benches.append(Bench(request.param, folder, **more))
        return benches[-1]

    yield build
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make):
    return make()
