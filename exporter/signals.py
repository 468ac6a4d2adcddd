"""Signals of the operating system, waited for by the main thread."""

import signal
from queue import SimpleQueue
from types import FrameType


class Signals:
    """Takes signals from its making on, so that none is lost before somebody waits. To be made by the main thread.

    A `threading.Event` would not do: a handler runs in the main thread, and if it sets an event whose own lock that
    thread holds just then, at the start of its waiting, it waits for ever. A `SimpleQueue` may be put to at any moment.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._noted: SimpleQueue[int] = SimpleQueue()
        for number in numbers:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.put(number)

    def wait(self) -> frozenset[int]:
        """Waits for a signal; the numbers of all that have come since the last call."""
        came = {self._noted.get()}
        while not self._noted.empty():
            came.add(self._noted.get())
        return frozenset(came)
