"""Parts of a source that could not be read: they cost themselves alone, and hold nothing up for long."""

from collections.abc import Iterator
from contextlib import contextmanager

from exporter.errors import AuthError, PartialError, RateLimitedError, SourceError

PATIENCE = 900.0
"""Seconds for which a part that fails may hold the watermark of its scope."""

FORGOTTEN_AFTER = 86400.0


class FailingParts:
    """What could not be read in this poll, and since when. Not for errors that concern the credential as a whole."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._errors: dict[str, SourceError] = {}

    def begin(self, now: float) -> None:
        """Start a poll. What was not tried for a day is forgotten."""
        self._errors = {}
        for part in [part for part, last in self._last.items() if now - last > FORGOTTEN_AFTER]:
            self.answered(part)

    @contextmanager
    def reading(self, part: str, now: float) -> Iterator[None]:
        """Read a part: its error is noted, not raised, unless it is about the credential or the rate limit."""
        try:
            yield
        except (AuthError, RateLimitedError):
            raise
        except SourceError as error:
            self.failed(part, error, now)
        else:
            self.answered(part)

    def failed(self, part: str, error: SourceError, now: float) -> None:
        """Note that a part could not be read."""
        self._errors[part], self._last[part] = error, now
        self._since[part] = min(self._since.get(part, now), now)  # what lies ahead was set by a wrong clock

    def answered(self, part: str) -> None:
        """Note that a part was read, or is no more."""
        self._since.pop(part, None)
        self._last.pop(part, None)
        self._errors.pop(part, None)

    def lasts(self, part: str, now: float) -> bool:
        """Return whether a part has failed for so long that it must hold nothing up any more."""
        return part in self._since and now - self._since[part] > PATIENCE

    @property
    def errors(self) -> dict[str, SourceError]:
        """What failed in this poll, by part."""
        return self._errors

    def raise_errors(self) -> None:
        """Raise PartialError if a part failed in this poll."""
        if self._errors:
            raise PartialError(self._errors)
