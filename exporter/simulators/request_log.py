"""The requests that a simulated vendor received."""

import threading
from collections import Counter, deque

import msgspec

from exporter.simulators.message import Request

LOG_LENGTH = 10_000


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A request, with the names of its headers. `status`: 0 if a disruption affected the response's delivery."""

    time: float
    method: str
    path: str
    query: str
    endpoint: str
    status: int
    header_names: tuple[str, ...]


class RequestLog:
    """The latest requests of the vendor's API, and the count of all by endpoint and status."""

    def __init__(self) -> None:
        self._lines: deque[Received] = deque(maxlen=LOG_LENGTH)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def add(self, request: Request, query: str, status: int) -> None:
        """Record a request."""
        line = Received(
            time=request.received,
            method=request.method,
            path=request.path,
            query=query,
            endpoint=request.endpoint,
            status=status,
            header_names=tuple(request.headers),
        )
        with self._lock:
            self._lines.append(line)
            self._counts[line.endpoint, status] += 1

    def lines(self, endpoint: str | None = None) -> list[Received]:
        """Return the latest requests, oldest first. `endpoint`: only requests to it."""
        with self._lock:
            return [line for line in self._lines if endpoint in (None, line.endpoint)]

    def counts(self) -> dict[tuple[str, int], int]:
        """Return the number of requests by endpoint and status."""
        with self._lock:
            return dict(self._counts)

    def clear(self) -> None:
        """Remove all requests."""
        with self._lock:
            self._lines.clear()
            self._counts.clear()
