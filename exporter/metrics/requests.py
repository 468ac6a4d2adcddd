"""Metrics of the requests that this process sends: counters and a histogram that start at 0 with each process."""

import threading
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram

from exporter.client.transport import RequestRecorder
from exporter.counting.records import RateLimit
from exporter.metrics.families import RATE_LIMIT_WAIT, REQUEST_DURATION, REQUEST_FAMILIES, REQUESTS, RETRIES
from exporter.metrics.family import Family, Kind

Metric = Counter | Histogram


class RequestMetrics:
    """The request metrics of all sources. Thread-safe. `registry`: not the global one of the client library."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = {family.name: _metric(family) for family in REQUEST_FAMILIES}
        self._recorders: dict[str, SourceRequests] = {}
        self._lock = threading.Lock()
        for metric in self._metrics.values():
            registry.register(metric)

    def source(self, name: str, endpoints: Iterable[str] = ()) -> "SourceRequests":
        """Return the recorder of a source. The counters of these endpoint templates are exposed as 0."""
        with self._lock:
            recorder = self._recorders.get(name)
            if recorder is None:
                recorder = self._recorders[name] = SourceRequests(name, self._metrics)
            recorder.seed(endpoints)
            return recorder

    def remove(self, name: str) -> None:
        """Remove all series of a source. Later calls of its recorder have no effect."""
        with self._lock:
            recorder = self._recorders.pop(name, None)
        if recorder is not None:
            recorder.close()


class SourceRequests(RequestRecorder):
    """Records the requests for one source.

    Attributes:
        rate_limit: The tightest rate limit that the API reports.
        expiry: When the credential in use expires; None if that is unknown.
    """

    def __init__(self, name: str, metrics: Mapping[str, Metric]) -> None:
        self._name = name
        self._metrics = metrics
        self._closed = False
        self._lock = threading.Lock()
        self.rate_limit = RateLimit()
        self.expiry: float | None = None
        self._add(RETRIES, 0)
        self._add(RATE_LIMIT_WAIT, 0)

    def seed(self, endpoints: Iterable[str]) -> None:
        """Expose the counters of these endpoint templates as 0."""
        for endpoint in endpoints:
            self._add(REQUESTS, 0, endpoint, "200")

    def count_request(self, endpoint: str, code: str, seconds: float) -> None:
        """Count a request. `code`: the status of its response, or `timeout` or `network`."""
        self._add(REQUESTS, 1, endpoint, code)
        self._add(REQUEST_DURATION, seconds, endpoint)

    def count_retry(self) -> None:
        """Count a request that is sent again."""
        self._add(RETRIES, 1)

    def add_wait(self, seconds: float) -> None:
        """Count the seconds that a request waited for the budget."""
        self._add(RATE_LIMIT_WAIT, max(0.0, seconds))

    def set_limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """Store the API's tightest rate limit. The end of the poll writes it to the source's record."""
        self.rate_limit = RateLimit(limit=limit, remaining=remaining, reset=reset)

    def set_credential_expiry(self, timestamp: float | None) -> None:
        """Store when the credential expires. The end of the poll writes it to the source's record."""
        self.expiry = timestamp

    def close(self) -> None:
        """Remove all series of the source for good."""
        with self._lock:
            self._closed = True
            for metric in self._metrics.values():
                metric.remove_by_labels({"source": self._name})

    def _add(self, family: str, amount: float, *values: str) -> None:
        """Add to a counter, or observe a value in a histogram. `values`: label values after `source`."""
        with self._lock:
            if not self._closed:  # a poll of a removed source can still be running
                series = self._metrics[family].labels(self._name, *values)
                series.inc(amount) if isinstance(series, Counter) else series.observe(amount)


def _metric(family: Family) -> Metric:
    """Return the client library's object for a row. It is not registered yet."""
    if family.kind is Kind.HISTOGRAM:
        return Histogram(family.name, family.help, family.labels, registry=None, buckets=family.buckets)
    return Counter(family.name, family.help, family.labels, registry=None)
