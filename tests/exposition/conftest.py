import prometheus_client
import pytest

from exporter.metrics.zero_first import ZeroFirst
from tests.exposition.view_builders import Pages


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pending_series(clock):
    return ZeroFirst(120.0, clock)


@pytest.fixture
def exposition(pending_series):
    return Pages(prometheus_client.CollectorRegistry(), pending_series)
