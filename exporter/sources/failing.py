"""The parts of a source that cannot be read now. An error in one part does not end the poll."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from exporter.errors import BlockedError, PartialError, SourceError
from exporter.sources.view import View

# Seconds for which the watermark of a source waits for a failing part.
PATIENCE = 900.0
# A failed part is skipped for this many times the duration of its last try, so that a part that hangs does not delay
# the others.
COST_FACTOR = 20.0
MAX_REST = 900.0
# If more parts than this fail, parts that were not tried for a day are dropped: they no longer exist.
MAX_PARTS = 1000
DAY = 86400.0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failing part: times of its first failed try and its next try, and its last error."""

    since: float
    retry: float
    error: SourceError


class FailingParts:
    """The parts that cannot be read, by name. It is kept from poll to poll. All times are by the API's clock.

    Attributes:
        errors: The errors of the current poll, by part.
    """

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}
        self.errors: dict[str, SourceError] = {}

    def start_poll(self) -> None:
        """Clear the errors of the last poll."""
        self.errors = {}

    @contextmanager
    def read(self, part: str, view: View, *, raising: tuple[type[SourceError], ...] = ()) -> Iterator[None]:
        """Read a part in a `with` block, and record its error.

        BlockedError and the errors in `raising` are raised instead.
        """
        began = view.now
        try:
            yield
        except SourceError as error:
            if isinstance(error, (BlockedError, *raising)):
                raise
            self.failed(part, error, began=began, now=view.now)
        else:
            self.succeeded(part)

    def failed(self, part: str, error: SourceError, *, began: float, now: float) -> None:
        """Record a try that began at one time and has failed now."""
        known = self._failures.get(part)
        rest = min(COST_FACTOR * max(0.0, now - began), MAX_REST)
        since = began if known is None or known.since > now else known.since
        self.errors[part] = error
        self._failures[part] = Failure(since=since, retry=now + rest, error=error)
        if len(self._failures) > MAX_PARTS:
            self._failures = {name: each for name, each in self._failures.items() if now - each.retry < DAY}

    def succeeded(self, part: str) -> None:
        """Remove a part that was read or no longer exists."""
        self._failures.pop(part, None)
        self.errors.pop(part, None)

    def get(self, part: str) -> Failure | None:
        """Return the failure of a part; None if it can be read."""
        return self._failures.get(part)

    def skips(self, part: str, now: float) -> bool:
        """Return whether this poll skips a part because its last try took long. The part counts as failed."""
        failure = self._failures.get(part)
        # A next try too far in the future was set by a wrong clock, and is ignored.
        if failure is None or not now < failure.retry <= now + MAX_REST:
            return False
        self.errors[part] = failure.error
        return True

    def is_overdue(self, part: str, now: float) -> bool:
        """Return whether a part has failed for so long that the watermark no longer waits for it."""
        failure = self._failures.get(part)
        return failure is not None and now - failure.since >= PATIENCE

    def raise_errors(self, scopes: Iterable[str] = (), now: float = 0.0) -> None:
        """Raise PartialError if a part failed in this poll. `scopes`: the parts that are whole scopes."""
        if self.errors:
            # A scope that has failed for long counts as unreadable, so it does not count as failed.
            failed = any(part in self.errors and not self.is_overdue(part, now) for part in scopes)
            raise PartialError(self.errors, scope_failed=failed)
