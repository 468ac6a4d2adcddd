"""Bursts: creation times with more runs than a list can show."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

import msgspec
import structlog

from exporter.client.client import Client
from exporter.errors import ClientStatusError, DecodeError, SchemaError
from exporter.sources.failing import PATIENCE
from exporter.sources.strait.api import EXPORT, Export, cursor_at, exact, parse_export

CHECKPOINT_PREFIX = "burst/"


class Burst(msgspec.Struct, frozen=True, array_like=True):
    """What the state keeps of a burst.

    Attributes:
        since: When it was first seen.
        read: Whether all its runs are known by now, or cannot be.
        cut: Whether it was counted as one with missing runs.
    """

    since: float
    read: bool = False
    cut: bool = False


class Bursts:
    """The bursts of one kind of runs.

    The server's export has every run of a time, in states that may be stale: so it is requested once for their IDs,
    and the runs are then read by ID. Each export leaves an audit entry at the server.

    Args:
        exports: Whether the server exports this kind.
    """

    def __init__(self, source: str, scope: str, client: Client, *, exports: bool) -> None:
        self._client = client
        self._exports = exports
        self._prefix = f"{CHECKPOINT_PREFIX}{scope}/"
        self._log = structlog.get_logger().bind(source=source)

    def known(self, checkpoints: Mapping[str, str]) -> dict[datetime, Burst]:
        """Return the bursts in the state, by time."""
        mine = {
            key.removeprefix(self._prefix): text for key, text in checkpoints.items() if key.startswith(self._prefix)
        }
        times = ((exact(time), text) for time, text in mine.items())
        return {time: msgspec.json.decode(text, type=Burst) for time, text in times if time is not None}

    def encode(self, time: datetime, burst: Burst) -> dict[str, str]:
        """Return the checkpoint of a burst, by its name."""
        return {self._prefix + cursor_at(time): msgspec.json.encode(burst).decode()}

    def expired(self, checkpoints: Mapping[str, str], before: float) -> dict[str, str]:
        """Return the checkpoints to delete: of times that no poll reads any longer."""
        old = [time for time in self.known(checkpoints) if time.timestamp() < before]
        return {self._prefix + cursor_at(time): "" for time in old}

    def holding(self, checkpoints: Mapping[str, str], unseen: Collection[float], now: float) -> Iterator[float]:
        """Yield the times before which the watermark must stay, for a while, as some of their runs are unread.

        `unseen`: creation times of runs that are known by their ID only.
        """
        for time, burst in self.known(checkpoints).items():
            unread = not burst.read or any(abs(time.timestamp() - each) < 1e-3 for each in unseen)
            if unread and 0 <= now - burst.since <= PATIENCE:
                yield time.timestamp()

    def export(self, time: datetime) -> Export | None:
        """Return the runs created at a time; None if the server does not export them.

        Raises SourceError if a retry may help.
        """
        if not self._exports:
            return None
        when = cursor_at(time)
        try:
            body = self._client.get(EXPORT, endpoint=EXPORT, params={"format": "csv", "from": when, "to": when})
            return parse_export(body, time)
        except (ClientStatusError, DecodeError, SchemaError):
            return None

    def log_cut(self, time: datetime, shown: int, lists: int) -> None:
        """Log that runs of a time may be missing. `lists`: the number of lists that did not show all of theirs."""
        self._log.warning(
            "runs created at one time could not all be listed",
            created=cursor_at(time),
            shown=shown,
            missing=f"at least {max(1, lists)}",
        )
