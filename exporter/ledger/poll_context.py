"""The context of a write to the ledger."""

import msgspec

from exporter.errors import StateError


class PollContext(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a write to the ledger, and the poll to which it belongs.

    Attributes:
        now: The current time, by the API's clock.
        started: When the poll started.
        behind: Seconds by which the API's clock is behind the local clock, at least 0.
        load: How often the source's records had been loaded before the poll started; None outside of a poll.
    """

    now: float
    started: float
    behind: float = 0.0
    load: int | None = None

    @classmethod
    def at(cls, now: float) -> "PollContext":
        """Return the context of a write outside of a poll."""
        return cls(now=now, started=now)

    def require_load(self, load: int) -> None:
        """Raise StateError if the source's records were loaded again since the poll started."""
        if self.load not in {None, load}:
            raise StateError("records were loaded again during the poll; the next poll continues from them")
