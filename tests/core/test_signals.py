import os
import signal

import pytest

from exporter.signals import Signals


@pytest.fixture
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield Signals(*before)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_sent_before_the_wait_are_returned_together():
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        signals = Signals(*before)
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert signals.wait() == {signal.SIGUSR1, signal.SIGUSR2}
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.wait() == {signal.SIGUSR1}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_within_a_short_time_are_returned_together(signals):
    for _ in range(100):
        signal.raise_signal(signal.SIGUSR1)
    assert signals.collect(0.01, {signal.SIGUSR2}) == {signal.SIGUSR1}
    assert signals.collect(0.01, {signal.SIGUSR2}) == frozenset()


def test_an_urgent_signal_ends_the_collecting_at_once(signals):
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    assert signals.collect(3600, {signal.SIGUSR2}) == {signal.SIGUSR1, signal.SIGUSR2}
