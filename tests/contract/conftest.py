import pytest

from exporter.simulators import SIMULATORS
from tests.contract.harness import ABILITIES, Ability, Bench


def pytest_generate_tests(metafunc):
    """Run a test for every vendor, or with `@pytest.mark.able("steps")` for those that have the ability."""
    if "make" in metafunc.fixturenames:
        needed = [mark.args[0] for mark in metafunc.definition.iter_markers("able")]
        able = [
            vendor
            for vendor in sorted(SIMULATORS)
            if all(getattr(ABILITIES.get(vendor, Ability()), ability) for ability in needed)
        ]
        metafunc.parametrize("make", able, indirect=True)


@pytest.fixture
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
