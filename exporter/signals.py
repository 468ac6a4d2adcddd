"""Collects signals of the operating system, for which the main thread waits."""

import contextlib
import signal
import time
from collections.abc import Callable, Collection
from queue import Empty, SimpleQueue
from types import FrameType


class Signals:
    """Collects signals from its creation on, so that none is lost before `wait`. Create it in the main thread."""

    # A handler runs in the main thread, which may hold the lock of a `threading.Event` at that moment. Setting the
    # event would then block forever. `SimpleQueue.put` never blocks.

    def __init__(self, *numbers: signal.Signals) -> None:
        self._noted: SimpleQueue[int] = SimpleQueue()
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.put(number)

    def wait(self) -> frozenset[int]:
        """Wait for a signal. Return the numbers of all signals since the last call."""
        came = {self._noted.get()}
        while not self._noted.empty():
            came.add(self._noted.get())
        return frozenset(came)

    def collect(
        self, seconds: float, urgent: Collection[int], monotonic: Callable[[], float] = time.monotonic
    ) -> frozenset[int]:
        """Return the numbers of all signals within `seconds`. An urgent signal ends the wait."""
        until, came = monotonic() + seconds, set[int]()
        while not came & set(urgent) and (left := until - monotonic()) > 0:
            with contextlib.suppress(Empty):
                came.add(self._noted.get(timeout=left))
        while not self._noted.empty():  # signals that came in time
            came.add(self._noted.get())
        return frozenset(came)
