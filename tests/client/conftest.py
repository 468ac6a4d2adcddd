import pytest


class MovedTime:
    """Clocks that move only when something sleeps. With `stops` a shutdown ends the next sleep early."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []
        self.stops = False

    def monotonic(self):
        return self.now

    def clock(self):
        return 1_700_000_000.0 + self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        return self.stops


@pytest.fixture
def moved():
    return MovedTime()
