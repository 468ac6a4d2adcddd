"""Bursts: times at which more runs were created than a list can show."""

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
    """A burst's checkpoint in the state.

    Attributes:
        since: When it was first seen.
        read: Whether all its runs are known, or cannot be known.
        cut: Whether it was counted as a truncated response.
    """

    since: float
    read: bool = False
    cut: bool = False


class Bursts:
    """The bursts of one kind of runs.

    The server's export has every run of a time, but its states may be stale. So the export is requested once, for the
    IDs, and the runs are read by ID. Each export leaves an audit entry on the server.

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
        """Return the checkpoints to delete: no poll reads times before `before` any more."""
        old = [time for time in self.known(checkpoints) if time.timestamp() < before]
        return {self._prefix + cursor_at(time): "" for time in old}

    def holding(self, checkpoints: Mapping[str, str], unseen: Collection[float], now: float) -> Iterator[float]:
        """Yield the times of bursts with unread runs. The watermark must not pass them for PATIENCE seconds.

        `unseen`: creation times of runs of which only the ID is known.
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
        """Log that runs of a time may be missing. `lists`: number of lists that did not show all runs of that time."""
        self._log.warning(
            "runs created at one time could not all be listed",
            created=cursor_at(time),
            shown=shown,
            missing=f"at least {max(1, lists)}",
        )
