import os
import signal

from exporter.signals import Signals


def test_signals_that_came_before_anybody_waited_are_told_together():
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
