"""Parts of a source that cannot be read at present: since when, and when each is tried again."""

import msgspec

from exporter.errors import SourceError

PATIENCE = 900.0
"""Seconds for which an unread part holds the watermark of its source."""
COST_FACTOR = 20.0
"""A part is left alone for this many times as long as its last try took: one that hangs must not stop the others."""
LONGEST_PAUSE = 900.0
MOST_PARTS = 1000
"""Parts beyond which those that were not tried for a day are forgotten: they exist no more."""
DAY = 86400.0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a part that cannot be read. `since`: its first failed try; `retry`: when the next is due."""

    since: float
    tried: float
    retry: float
    error: SourceError


class FailingParts:
    """Remembers the parts that cannot be read, by name. All times are by the API's clock."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def failed(self, part: str, error: SourceError, *, began: float, now: float) -> None:
        """Note a failed try that began and ended at these times."""
        known = self._failures.get(part)
        pause = min(COST_FACTOR * max(0.0, now - began), LONGEST_PAUSE)
        since = began if known is None or known.since > now else known.since
        self._failures[part] = Failure(since=since, tried=now, retry=now + pause, error=error)
        if len(self._failures) > MOST_PARTS:
            self._failures = {name: each for name, each in self._failures.items() if now - each.tried < DAY}

    def answered(self, part: str) -> None:
        """Forget a part that was read."""
        self._failures.pop(part, None)

    def get(self, part: str) -> Failure | None:
        """Return the state of a part, None if it can be read."""
        return self._failures.get(part)

    def is_resting(self, part: str, now: float) -> bool:
        """Return whether a part is to be left alone for now. A wrong clock makes none rest for longer than allowed."""
        failure = self._failures.get(part)
        return failure is not None and now < failure.retry <= now + LONGEST_PAUSE

    def is_overdue(self, part: str, now: float) -> bool:
        """Return whether a part has been unread for so long that it must not hold the watermark."""
        failure = self._failures.get(part)
        return failure is not None and now - failure.since >= PATIENCE
