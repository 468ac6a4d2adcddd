"""What one poll could not read of a source: errors that cost a part of it, and not the poll."""

from collections.abc import Iterator
from contextlib import contextmanager

from exporter.errors import AuthError, PartialError, RateLimitedError, SourceError
from exporter.sources.failing import FailingParts
from exporter.sources.source import View


class PollParts:
    """The parts that one poll after another cannot read. Errors that concern the credential as a whole are raised."""

    def __init__(self) -> None:
        self._failing = FailingParts()
        self._errors: dict[str, SourceError] = {}

    def begin(self) -> None:
        """Start a poll."""
        self._errors = {}

    @contextmanager
    def batch(self, part: str, view: View) -> Iterator[None]:
        """Read a part: its error is noted, not raised, unless it is about the credential or the rate limit."""
        began = view.now
        try:
            yield
        except (AuthError, RateLimitedError):
            raise
        except SourceError as error:
            self.failed(part, error, view, began=began)
        else:
            self.answered(part)

    def failed(self, part: str, error: SourceError, view: View, *, began: float | None = None) -> None:
        """Note that a part could not be read."""
        now = view.now
        self._errors[part] = error
        self._failing.failed(part, error, began=now if began is None else began, now=now)

    def answered(self, part: str) -> None:
        """Note that a part was read, or is no more."""
        self._failing.answered(part)
        self._errors.pop(part, None)

    def rests(self, part: str, view: View) -> bool:
        """Return whether a part is left alone in this poll, as its tries take long; it still counts as failed."""
        failure = self._failing.get(part)
        if failure is None or not self._failing.is_resting(part, view.now):
            return False
        self._errors[part] = failure.error
        return True

    def lasts(self, part: str, now: float) -> bool:
        """Return whether a part has failed for so long that it must hold nothing up any more."""
        return self._failing.is_overdue(part, now)

    @property
    def errors(self) -> dict[str, SourceError]:
        """What failed in this poll, by part."""
        return self._errors

    def raise_errors(self) -> None:
        """Raise PartialError if a part failed in this poll."""
        if self._errors:
            raise PartialError(self._errors)
