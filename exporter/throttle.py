"""Limits log lines of libraries and web clients to one line per kind and minute."""

import re
import threading
from collections.abc import Callable
from typing import Final

import msgspec

PERIOD: Final = 60.0
"""Seconds between two lines of one kind."""

MOST_KINDS: Final = 1000
"""Maximum number of remembered kinds, so that ever-changing messages do not fill the memory."""

_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|<.*", re.IGNORECASE | re.DOTALL)
"""Parts that differ between messages of one kind: numbers, addresses, quoted texts, objects."""

Kind = tuple[str, str]


class Swallowed(msgspec.Struct, frozen=True):
    """Lines of one kind that were not written."""

    logger: str
    message: str
    count: int


class _Window(msgspec.Struct):
    since: float
    message: str
    swallowed: int = 0


class Throttle:
    """Thread-safe. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[Kind, _Window] = {}
        self._lock = threading.Lock()

    def admits(self, logger: str, message: str) -> bool:
        """Return whether a line may be written. Count it if not."""
        kind = (logger, _VARIABLE.sub("_", message)[:200])
        with self._lock:
            window = self._windows.get(kind)
            if window is not None:
                window.swallowed += 1
                return False
            while len(self._windows) >= MOST_KINDS:
                del self._windows[next(iter(self._windows))]
            self._windows[kind] = _Window(self._clock(), message)
            return True

    def over(self) -> list[Swallowed]:
        """Return the lines swallowed in minutes that have ended. Each is written as the next minute's line."""
        with self._lock:
            now = self._clock()
            ended = {kind: each for kind, each in self._windows.items() if not 0 <= now - each.since < PERIOD}
            for kind, window in ended.items():
                del self._windows[kind]
                if window.swallowed:
                    self._windows[kind] = _Window(now, window.message)
            return [Swallowed(kind[0], each.message, each.swallowed) for kind, each in ended.items() if each.swallowed]
