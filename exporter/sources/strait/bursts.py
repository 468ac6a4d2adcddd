"""Bursts: times at which more runs were created than a list can show."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

import msgspec

from exporter.client.client import Client
from exporter.errors import ClientStatusError, DecodeError, SchemaError
from exporter.sources.failing import PATIENCE
from exporter.sources.strait.api import EXPORT, cursor_at, exact_time, parse_export


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

    def is_overdue(self, now: float) -> bool:
        """Return whether the watermark no longer waits for the burst."""
        return not 0 <= now - self.since <= PATIENCE


def burst_key(scope: str, time: datetime) -> str:
    """Return the name of a burst's checkpoint."""
    return f"burst/{scope}/{cursor_at(time)}"


def encode_burst(scope: str, time: datetime, burst: Burst) -> dict[str, str]:
    """Return a burst's checkpoint by its name."""
    return {burst_key(scope, time): msgspec.json.encode(burst).decode()}


def decode_bursts(scope: str, checkpoints: Mapping[str, str]) -> dict[datetime, Burst]:
    """Return the bursts of a scope in the state, by time."""
    prefix = f"burst/{scope}/"
    texts = {
        exact_time(name.removeprefix(prefix)): text for name, text in checkpoints.items() if name.startswith(prefix)
    }
    return {time: msgspec.json.decode(text, type=Burst) for time, text in texts.items() if time is not None}


def unread_times(bursts: Mapping[datetime, Burst], unread: Collection[float], now: float) -> Iterator[float]:
    """Yield the times of bursts with unread runs. The watermark must not pass them while they are not overdue.

    `unread`: creation times of the runs of which only the ID is known.
    """
    for time, burst in bursts.items():
        is_unread = not burst.read or any(abs(time.timestamp() - each) < 1e-3 for each in unread)
        if is_unread and not burst.is_overdue(now):
            yield time.timestamp()


def read_export(client: Client, time: datetime) -> tuple[dict[str, str], bool | None]:
    """Return the job IDs of the runs created at a time, by run ID, and whether these are all; None without an export.

    Raises SourceError if a retry may help.
    """
    # The server's export has every run of a time, but its states may be stale. So it is requested once, for the IDs,
    # and the runs are read by ID. Each export leaves an audit entry on the server.
    when = cursor_at(time)
    try:
        body = client.get(EXPORT, endpoint=EXPORT, params={"format": "csv", "from": when, "to": when})
        return parse_export(body, time)
    except (ClientStatusError, DecodeError, SchemaError):
        return {}, None
