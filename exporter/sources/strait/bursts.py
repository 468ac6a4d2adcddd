"""Bursts: times at which more runs were created than a list can show."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

import msgspec

from exporter.sources.failing import PATIENCE
from exporter.sources.strait.api import cursor_at, exact_time


class Burst(msgspec.Struct, frozen=True, array_like=True):
    """A burst's checkpoint in the state.

    Attributes:
        since: Time at which it was first seen.
        read: Whether all its runs are known, or cannot be known.
        truncated: Whether it was counted as a truncated response.
    """

    since: float
    read: bool = False
    truncated: bool = False


class BurstCheckpoints:
    """The bursts of one scope in the state. A checkpoint's name has the scope and the time of a burst."""

    def __init__(self, scope: str) -> None:
        self._prefix = f"burst/{scope}/"

    def decode(self, checkpoints: Mapping[str, str]) -> dict[datetime, Burst]:
        """Return the bursts in the state, by time."""
        names = [name for name in checkpoints if name.startswith(self._prefix)]
        times = ((exact_time(name.removeprefix(self._prefix)), checkpoints[name]) for name in names)
        return {time: msgspec.json.decode(text, type=Burst) for time, text in times if time is not None}

    def encode(self, time: datetime, burst: Burst) -> dict[str, str]:
        """Return the checkpoint of a burst, by its name."""
        return {self._prefix + cursor_at(time): msgspec.json.encode(burst).decode()}

    def expired(self, checkpoints: Mapping[str, str], before: float) -> dict[str, str]:
        """Return the checkpoints to delete: no poll reads runs created before `before` any more."""
        return {self._prefix + cursor_at(time): "" for time in self.decode(checkpoints) if time.timestamp() < before}

    def unread(self, checkpoints: Mapping[str, str], unseen: Collection[float], now: float) -> Iterator[float]:
        """Yield the times of bursts with unread runs. The watermark must not pass them for PATIENCE seconds.

        `unseen`: creation times of the runs of which only the ID is known.
        """
        for time, burst in self.decode(checkpoints).items():
            unread = not burst.read or any(abs(time.timestamp() - each) < 1e-3 for each in unseen)
            if unread and 0 <= now - burst.since <= PATIENCE:
                yield time.timestamp()
