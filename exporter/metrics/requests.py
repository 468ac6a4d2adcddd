"""Metrics of the requests that this process sends: counters and a histogram that start at 0 with each process.

They have a registry of their own, and never use the global one of the client library.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from exporter.client.transport import RequestRecorder
from exporter.counting.records import RateLimit
from exporter.metrics.families import RATE_LIMIT_WAIT, REQUEST_DURATION, REQUEST_FAMILIES, REQUESTS, RETRIES
from exporter.metrics.family import Family, Kind

Metric = Counter | Histogram
MetricType = TypeVar("MetricType", Counter, Histogram)


class RequestMetrics:
    """The request metrics of all sources on one registry. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = {family.name: _metric(family) for family in REQUEST_FAMILIES}
        self._observers: dict[str, SourceRequests] = {}
        self._lock = threading.Lock()
        for metric in self._metrics.values():
            registry.register(metric)

    def source(self, name: str, endpoints: Iterable[str] = ()) -> "SourceRequests":
        """Return the observer of a source. The counters of these endpoint templates are exposed as 0."""
        with self._lock:
            observer = self._observers.get(name)
            if observer is None:
                observer = self._observers[name] = SourceRequests(name, self._metrics)
            observer.seed(endpoints)
            return observer

    def remove(self, name: str) -> None:
        """Remove all series of a source. Later calls of its observer have no effect."""
        with self._lock:
            observer = self._observers.pop(name, None)
        if observer is not None:
            observer.close()


class SourceRequests(RequestRecorder):
    """Records the requests for one source.

    Attributes:
        rate_limit: The tightest rate limit that the API reports.
        expiry: When the credential in use expires; None if that is unknown.
    """

    def __init__(self, name: str, metrics: Mapping[str, Metric]) -> None:
        self._name = name
        self._metrics = metrics
        self._series: dict[tuple[str, ...], Metric] = {}
        self._closed = False
        self._lock = threading.Lock()
        self.rate_limit = RateLimit()
        self.expiry: float | None = None
        self._of(Counter, RETRIES)
        self._of(Counter, RATE_LIMIT_WAIT)

    def seed(self, endpoints: Iterable[str]) -> None:
        """Expose the counters of these endpoint templates as 0."""
        for endpoint in endpoints:
            self._of(Counter, REQUESTS, endpoint, "200")

    def request(self, endpoint: str, code: str, seconds: float) -> None:
        """Count a request by the code of its response, or `timeout` or `network`."""
        self._of(Counter, REQUESTS, endpoint, code).inc()
        self._of(Histogram, REQUEST_DURATION, endpoint).observe(seconds)

    def retry(self) -> None:
        """Count a request that is sent again."""
        self._of(Counter, RETRIES).inc()

    def waited(self, seconds: float) -> None:
        """Count the seconds that a request waited for the budget."""
        self._of(Counter, RATE_LIMIT_WAIT).inc(max(0.0, seconds))

    def limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """Store the API's tightest rate limit. The end of the poll writes it to the source's record."""
        self.rate_limit = RateLimit(limit=limit, remaining=remaining, reset=reset)

    def credential_expiry(self, timestamp: float | None) -> None:
        """Store when the credential expires. The end of the poll writes it to the source's record."""
        self.expiry = timestamp

    def close(self) -> None:
        """Remove all series of the source for good."""
        with self._lock:
            self._closed = True
            for family, *values in self._series:
                self._metrics[family].remove(self._name, *values)
            self._series = {}

    def _of(self, kind: type[MetricType], family: str, *values: str) -> MetricType:
        """Return a series by family and the values of the labels after `source`. After `close` it is not exposed."""
        with self._lock:
            series = self._series.get((family, *values))
            if series is None:
                series = self._metrics[family].labels(self._name, *values)
                # A poll of a removed source can still be running.
                if self._closed:
                    self._metrics[family].remove(self._name, *values)
                else:
                    self._series[family, *values] = series
        if not isinstance(series, kind):
            raise TypeError(f"{family} is not a {kind.__name__}")
        return series


def _metric(family: Family) -> Metric:
    """Return the client library's object for a row. It is not registered yet."""
    if family.kind is Kind.HISTOGRAM:
        return Histogram(family.name, family.help, family.labels, registry=None, buckets=family.buckets)
    return Counter(family.name, family.help, family.labels, registry=None)
