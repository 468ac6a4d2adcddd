"""Lets the main thread wait for signals of the operating system."""

import contextlib
import signal
import time
from collections.abc import Collection
from queue import Empty, SimpleQueue
from types import FrameType


class Signals:
    """Records signals from its creation on. The main thread must create it."""

    # A handler may run while the main thread holds the lock of a `threading.Event`. Setting the event would then block
    # forever. `SimpleQueue.put` never blocks.

    def __init__(self, *numbers: signal.Signals) -> None:
        self._received: SimpleQueue[int] = SimpleQueue()
        for number in numbers:
            signal.signal(number, self._record)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._received.put(number)

    def wait(self) -> frozenset[int]:
        """Wait for a signal. Return all signals since the last call."""
        return self._rest({self._received.get()})

    def collect(self, seconds: float, urgent: Collection[int]) -> frozenset[int]:
        """Wait `seconds`, or until an urgent signal. Return all signals since the last call."""
        until, received = time.monotonic() + seconds, set[int]()
        while not received & set(urgent) and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                received.add(self._received.get(timeout=left))
        return self._rest(received)

    def _rest(self, received: set[int]) -> frozenset[int]:
        while not self._received.empty():
            received.add(self._received.get())
        return frozenset(received)
