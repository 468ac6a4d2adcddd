"""Times of a write during a poll."""

import msgspec


class PollContext(msgspec.Struct, frozen=True, kw_only=True):
    """Times of a write during a poll.

    Attributes:
        now: The current time, by the API's clock.
        started: When the poll started.
        latest: The time by the clock that is ahead, the API's or the local one; by default `now`.
        starting: Whether no poll of the source has been complete since this process started.
    """

    now: float
    started: float
    latest: float | None = None
    starting: bool = False
