"""Limits repeated log lines to one line per kind and minute."""

import re
import threading
from collections.abc import Callable
from typing import Final

import msgspec

PERIOD: Final = 60.0
"""Seconds in which only the first line of a kind is written."""

MAX_KINDS: Final = 1000
"""Maximum number of known kinds. Otherwise messages that always differ would fill the memory."""

_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|<.*", re.IGNORECASE | re.DOTALL)
"""Parts that may differ between messages of one kind: numbers, addresses, quoted texts, objects."""


class Period(msgspec.Struct):
    """A period of one kind. `message`: of the first line. `suppressed`: number of lines that were not written."""

    logger: str
    message: str
    start: float
    suppressed: int = 0


class Throttle:
    """Decides which log lines are written. Thread-safe. `clock`: returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[tuple[str, str], Period] = {}
        self._lock = threading.Lock()

    def admits(self, logger: str, message: str) -> bool:
        """Return whether to write a line. If not, count it."""
        kind = (logger, _VARIABLE.sub("_", message)[:200])
        with self._lock:
            period = self._periods.get(kind)
            if period is not None:
                period.suppressed += 1
                return False
            while len(self._periods) >= MAX_KINDS:
                del self._periods[next(iter(self._periods))]
            self._periods[kind] = Period(logger, message, self._clock())
            return True

    def end_periods(self) -> list[Period]:
        """Return the periods that have ended and in which lines were suppressed. Log a summary of each."""
        with self._lock:
            now = self._clock()
            ended = {kind: each for kind, each in self._periods.items() if not 0 <= now - each.start < PERIOD}
            for kind, period in ended.items():
                del self._periods[kind]
                if period.suppressed:  # the summary is the first line of the next period
                    self._periods[kind] = Period(period.logger, period.message, now)
            return [period for period in ended.values() if period.suppressed]
