"""Times at which more runs were created than a list can show: what is known of each, and how all are found."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

import msgspec
import structlog

from exporter.client.client import Client
from exporter.errors import ClientStatusError, DecodeError, SchemaError
from exporter.sources.failing import PATIENCE
from exporter.sources.strait.api import EXPORT, Exported, cursor_at, exact, parse_export

BURST_NOTE = "burst/"


class Burst(msgspec.Struct, frozen=True, array_like=True):
    """What the state keeps of such a time.

    Attributes:
        since: When it was first met.
        read: Whether every run of it is known by now, or cannot be.
        cut: Whether it was counted as one of which runs may be missing.
    """

    since: float
    read: bool = False
    cut: bool = False


class Bursts:
    """The bursts of one kind of runs.

    The server's export names every run of a time, in states that may be stale: so it is asked once for their IDs, and
    the runs are then read by ID. Each export leaves an audit entry at the server.

    Args:
        source: The name of the source, for the log.
        scope: The name of the kind.
        client: The API.
        exports: Whether the server exports this kind.
    """

    def __init__(self, source: str, scope: str, client: Client, *, exports: bool) -> None:
        self._client = client
        self._exports = exports
        self._prefix = f"{BURST_NOTE}{scope}/"
        self._log = structlog.get_logger().bind(source=source)

    def known(self, notes: Mapping[str, str]) -> dict[datetime, Burst]:
        """Return what the state keeps, by time."""
        mine = {key.removeprefix(self._prefix): note for key, note in notes.items() if key.startswith(self._prefix)}
        times = ((exact(text), note) for text, note in mine.items())
        return {time: msgspec.json.decode(note, type=Burst) for time, note in times if time is not None}

    def note(self, time: datetime, burst: Burst) -> dict[str, str]:
        """Return the note that the state is to keep."""
        return {self._prefix + cursor_at(time): msgspec.json.encode(burst).decode()}

    def forgotten(self, notes: Mapping[str, str], before: float) -> dict[str, str]:
        """Return notes to be deleted: of times that no poll reads any more."""
        old = [time for time in self.known(notes) if time.timestamp() < before]
        return {self._prefix + cursor_at(time): "" for time in old}

    def holding(self, notes: Mapping[str, str], unseen: Collection[float], now: float) -> Iterator[float]:
        """Yield the times before which the watermark must stay: some of their runs have not been read, for a while.

        `unseen`: creation times of runs that are known by their ID alone.
        """
        for time, burst in self.known(notes).items():
            unread = not burst.read or any(abs(time.timestamp() - each) < 1e-3 for each in unseen)
            if unread and 0 <= now - burst.since <= PATIENCE:
                yield time.timestamp()

    def ask(self, time: datetime) -> Exported | None:
        """Return the runs created at a time; None if the server does not say.

        Raises SourceError where asking again may help.
        """
        if not self._exports:
            return None
        when = cursor_at(time)
        try:
            answer = self._client.get(EXPORT, endpoint=EXPORT, params={"format": "csv", "from": when, "to": when})
            return parse_export(answer.body, time)
        except (ClientStatusError, DecodeError, SchemaError):
            return None

    def cut(self, time: datetime, shown: int, lists: int) -> None:
        """Log that runs of a time may be missing. `lists`: how many lists did not show all of theirs."""
        self._log.warning(
            "runs created at one time could not all be listed",
            created=cursor_at(time),
            shown=shown,
            missing=f"at least {max(1, lists)}",
        )
