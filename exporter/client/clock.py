"""The API's clock, as its responses show it."""

from collections.abc import Callable

import httpx

from exporter.client.limits import parse_age, parse_date

MIN_SKEW = 5.0
"""Seconds; a `Date` header has whole ones, and the answer travelled for a while."""


class ServerClock:
    """Compares the `Date` headers of an API with the local clock.

    Attributes:
        skew: Seconds by which the API's clock is ahead of ours, 0 until known.
    """

    def __init__(self, local: Callable[[], float]) -> None:
        self.local = local
        self.skew = 0.0
        self._suspected: float | None = None

    def now(self) -> float:
        """Return the current time by the API's clock."""
        return self.local() + self.skew

    def observe(self, response: httpx.Response, sent: float) -> bool:
        """Compare the `Date` of an answer with the local clock; return whether it contradicts the answers before.

        A new difference is believed once two answers in a row show it.
        """
        # One odd `Date` may be that of a cache or of one bad node. If it were believed, windows would lie in the
        # future, and completed runs would look older than they are.
        skew = self._shown_skew(response, sent)
        if skew is None:
            return False
        if any(known is not None and abs(skew - known) < MIN_SKEW for known in (self.skew, self._suspected)):
            self._suspected, self.skew = None, skew
            return False
        self._suspected = skew
        return True

    def possible_times(self, response: httpx.Response) -> list[float]:
        """Return when an answer may have been written, by the API's clock: two times if its `Date` is in doubt."""
        date, now = parse_date(response.headers.get("date", "")), self.now()
        if date is None:
            return [now]
        return [date] if abs(date - now) < MIN_SKEW else [now, date]

    def _shown_skew(self, response: httpx.Response, sent: float) -> float | None:
        date = parse_date(response.headers.get("date", ""))
        if date is None:
            return None
        date += parse_age(response.headers.get("age", ""))
        # The answer was written at any time since the request was sent: a slow answer does not prove a wrong clock.
        ahead, behind = date - self.local(), date - sent
        skew = ahead if ahead > 0 else min(behind, 0.0)
        return 0.0 if abs(skew) < MIN_SKEW else skew
