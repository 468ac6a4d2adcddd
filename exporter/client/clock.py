"""The API's clock, as its responses show it."""

from collections.abc import Callable

import httpx

from exporter.client.limits import parse_age, parse_date

MIN_SKEW = 5.0
"""A smaller skew, in seconds, counts as 0: `Date` headers have whole seconds, and responses take time to arrive."""


class ServerClock:
    """Compares the `Date` headers of an API with the local clock.

    Attributes:
        skew: Seconds by which the API's clock is ahead of the local clock; 0 until known.
    """

    def __init__(self, local: Callable[[], float]) -> None:
        self.local = local
        self.skew = 0.0
        self._suspected: float | None = None

    def now(self) -> float:
        """Return the current time by the API's clock."""
        return self.local() + self.skew

    def observe(self, response: httpx.Response, sent: float) -> bool:
        """Update the skew from a response. Return whether its `Date` contradicts earlier responses.

        A new skew is used once two consecutive responses show it.
        """
        # A single wrong `Date` may come from a cache or from a broken node. If it were used, windows would end in the
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
        """Return the time of a response by the API's clock; two possible times if its `Date` is in doubt."""
        date, now = parse_date(response.headers.get("date", "")), self.now()
        if date is None:
            return [now]
        return [date] if abs(date - now) < MIN_SKEW else [now, date]

    def _shown_skew(self, response: httpx.Response, sent: float) -> float | None:
        date = parse_date(response.headers.get("date", ""))
        if date is None:
            return None
        date += parse_age(response.headers.get("age", ""))
        # `Date` may be any time between request and response, so a slow response does not prove a wrong clock.
        ahead_of_now, ahead_of_request = date - self.local(), date - sent
        skew = ahead_of_now if ahead_of_now > 0 else min(ahead_of_request, 0.0)
        return 0.0 if abs(skew) < MIN_SKEW else skew
