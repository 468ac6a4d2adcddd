"""Times of a write during a poll."""

import msgspec


class PollContext(msgspec.Struct, frozen=True, kw_only=True):
    """Times of a write during a poll.

    Attributes:
        now: The current time, by the API's clock.
        started: When the poll started.
        behind: Seconds by which the API's clock is behind the local one; 0 if it is not.
        starting: Whether no poll of the source has been complete since this process started.
    """

    now: float
    started: float
    behind: float = 0.0
    starting: bool = False

    @classmethod
    def at(cls, now: float) -> "PollContext":
        """Return the context of a write outside of a poll."""
        return cls(now=now, started=now)
