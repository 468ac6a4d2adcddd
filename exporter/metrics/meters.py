"""The exporter's metrics about itself and its requests, which start at 0 with each process.

What must survive a restart is not here: it is kept in the state and rendered from there. Objects of the client library
live on a registry of their own, never the global one. A series is made when its value is known: absent is not 0.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from exporter.errors import REASONS
from exporter.model import Disposition

Metric = Counter | Gauge | Histogram
OUTCOMES: Final = ("success", "partial", "error", "skipped")
REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DELAY_BUCKETS: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)


class SourceFamily(msgspec.Struct, frozen=True):
    """One row of the table of metrics; `labels` come after `source` where the family belongs to one."""

    name: str
    help: str
    kind: type[Metric] = Gauge
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SOURCE_FAMILIES: Final = (
    SourceFamily("jobrun_source_up", "Whether the last poll read every readable scope."),
    SourceFamily("jobrun_source_info", "Provider and API of a source, as labels.", labels=("provider", "api_url")),
    SourceFamily("jobrun_source_scopes", "Scopes by whether the credential may read them.", labels=("state",)),
    SourceFamily("jobrun_source_jobs", "Jobs known of a source."),
    SourceFamily("jobrun_source_watermark_timestamp_seconds", "All endings up to this instant are counted."),
    SourceFamily("jobrun_source_last_poll_timestamp_seconds", "When the last poll ended, well or not."),
    SourceFamily("jobrun_source_last_success_timestamp_seconds", "When the last successful poll ended."),
    SourceFamily("jobrun_source_last_poll_duration_seconds", "How long the last poll took."),
    SourceFamily("jobrun_source_poll_interval_seconds", "The interval between polls now in force."),
    SourceFamily("jobrun_source_credential_expiry_timestamp_seconds", "When the credential in use ends."),
    SourceFamily("jobrun_source_step_fetches_pending", "Ended runs whose steps have yet to be fetched."),
    SourceFamily("jobrun_source_polls_total", "Polls by outcome.", Counter, ("outcome",)),
    SourceFamily("jobrun_source_poll_errors_total", "Errors of polls by reason.", Counter, ("reason",)),
    SourceFamily("jobrun_source_runs_fetched_total", "Run rows by what became of them.", Counter, ("disposition",)),
    SourceFamily("jobrun_source_rate_limit_wait_seconds_total", "Time that requests waited for the budget.", Counter),
    SourceFamily("jobrun_source_api_retries_total", "Requests that were sent again.", Counter),
    SourceFamily("jobrun_source_api_requests_total", "Requests by endpoint and code.", Counter, ("endpoint", "code")),
    SourceFamily(
        "jobrun_source_api_request_duration_seconds",
        "How long requests took, their whole answer included.",
        Histogram,
        ("endpoint",),
        REQUEST_BUCKETS,
    ),
    SourceFamily(
        "jobrun_source_observation_delay_seconds",
        "Time from the end of a run until it was counted.",
        Histogram,
        buckets=DELAY_BUCKETS,
    ),
    SourceFamily("jobrun_source_rate_limit_limit_requests", "The API's tightest rate limit."),
    SourceFamily("jobrun_source_rate_limit_remaining_requests", "What remains of the API's tightest rate limit."),
    SourceFamily("jobrun_source_rate_limit_reset_timestamp_seconds", "When the API's tightest rate limit starts anew."),
    SourceFamily("jobrun_exporter_scheduler_missed_polls_total", "Polls that came due while one was running.", Counter),
    SourceFamily("jobrun_exporter_tracked_runs", "Open runs that are followed."),
)
EXPORTER_FAMILIES: Final = (
    SourceFamily("jobrun_exporter_build_info", "Version, as labels.", labels=("version", "revision", "python_version")),
    SourceFamily("jobrun_exporter_config_last_reload_successful", "Whether the last reload of the config was applied."),
    SourceFamily("jobrun_exporter_config_last_reload_success_timestamp_seconds", "When a config was last applied."),
    SourceFamily("jobrun_exporter_state_last_commit_timestamp_seconds", "When the state was last written."),
    SourceFamily("jobrun_exporter_state_size_bytes", "Size of the state on disk."),
    SourceFamily(
        "jobrun_objective_jobs",
        "Jobs that have an objective, by its place in the configuration, counted from 0.",
        labels=("objective",),
    ),
    SourceFamily("jobrun_exporter_series", "Series served, by metric family.", labels=("family",)),
    SourceFamily("jobrun_exporter_series_limit", "The configured limit of domain series."),
    SourceFamily("jobrun_exporter_state_commit_errors_total", "Failed writes of the state.", Counter),
)
SEEDS: Final = (
    ("jobrun_source_polls_total", OUTCOMES),
    ("jobrun_source_poll_errors_total", REASONS),
    ("jobrun_source_runs_fetched_total", tuple(str(disposition) for disposition in Disposition)),
)
"""Counters whose values are all known: shown at 0 from the start."""
Kind = TypeVar("Kind", Counter, Gauge, Histogram)


class SelfMetrics:
    """The families of sources and of the exporter on one registry; may be used by several threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._source_families = {family.name: make(family, ("source",)) for family in SOURCE_FAMILIES}
        self._families = {family.name: make(family) for family in EXPORTER_FAMILIES}
        self._shown: set[str] = set()
        self._counted: set[str] = set()
        self._objectives = 0
        self._sources: dict[str, SourceMetrics] = {}
        self._lock = threading.Lock()
        for metric in self._source_families.values():
            registry.register(metric)
        self._counter("jobrun_exporter_state_commit_errors_total")

    def source(self, name: str, endpoints: Iterable[str] = ()) -> "SourceMetrics":
        """The meter of a source, the same for the same name; `endpoints` (templates) are seeded."""
        with self._lock:
            meter = self._sources.get(name)
            if meter is None:
                meter = self._sources[name] = SourceMetrics(name, self._source_families)
            meter.seed_endpoints(endpoints)
            return meter

    def remove(self, name: str) -> None:
        """A source is no more: its series go, and what its meter is still told is lost."""
        with self._lock:
            meter = self._sources.pop(name, None)
        if meter is not None:
            meter.close()

    def build_info(self, version: str, revision: str, python_version: str) -> None:
        """What is running."""
        self._gauge("jobrun_exporter_build_info").labels(version, revision, python_version).set(1)

    def reloaded(self, timestamp: float | None) -> None:
        """A config was applied at this instant, or refused (None)."""
        self._gauge("jobrun_exporter_config_last_reload_successful").set(timestamp is not None)
        if timestamp is not None:
            self._gauge("jobrun_exporter_config_last_reload_success_timestamp_seconds").set(timestamp)

    def committed(self, timestamp: float, size_bytes: int) -> None:
        """The state was written."""
        self._gauge("jobrun_exporter_state_last_commit_timestamp_seconds").set(timestamp)
        self._gauge("jobrun_exporter_state_size_bytes").set(size_bytes)

    def commit_failed(self) -> None:
        """The state could not be written."""
        self._counter("jobrun_exporter_state_commit_errors_total").inc()

    def series(self, counts: Mapping[str, int], limit: int) -> None:
        """Series by family, and how many there may be; families not named are no more."""
        gauge = self._gauge("jobrun_exporter_series")
        for family, count in counts.items():
            gauge.labels(family).set(count)
        for family in self._counted - counts.keys():
            gauge.remove(family)
        self._counted = set(counts)
        self._gauge("jobrun_exporter_series_limit").set(limit)

    def objectives(self, jobs: Sequence[int]) -> None:
        """Show how many jobs have each objective; objectives beyond these are no more."""
        for place, count in enumerate(jobs):
            self._gauge("jobrun_objective_jobs").labels(str(place)).set(count)
        for place in range(len(jobs), self._objectives):
            self._gauge("jobrun_objective_jobs").remove(str(place))
        self._objectives = len(jobs)

    def _gauge(self, name: str) -> Gauge:
        return shown(self._family(name), Gauge)

    def _counter(self, name: str) -> Counter:
        return shown(self._family(name), Counter)

    def _family(self, name: str) -> Metric:
        """The family, on the registry from its first value on: without labels it would show 0 before."""
        with self._lock:
            if name not in self._shown:
                self._registry.register(self._families[name])
                self._shown.add(name)
        return self._families[name]


class SourceMetrics:
    """What is told about one source. Implements `exporter.client.transport.Meter`."""

    def __init__(self, name: str, families: Mapping[str, Metric]) -> None:
        self._name = name
        self._families = families
        self._children: dict[tuple[str, ...], Metric] = {}
        self._values: dict[tuple[str, ...], float] = {}
        self._closed = False
        self._lock = threading.RLock()
        for family, values in SEEDS:
            for value in values:
                self._counter(family, value)
        for family in ("rate_limit_wait_seconds_total", "api_retries_total"):
            self._counter(f"jobrun_source_{family}")
        self._counter("jobrun_exporter_scheduler_missed_polls_total")
        self._histogram("jobrun_source_observation_delay_seconds")

    def seed_endpoints(self, endpoints: Iterable[str]) -> None:
        """These endpoints (templates) will be asked."""
        for endpoint in endpoints:
            self._counter("jobrun_source_api_requests_total", endpoint, "200")

    def request(self, endpoint: str, code: str, seconds: float) -> None:
        """One request was answered with this code, or got `timeout` or `network`."""
        self._counter("jobrun_source_api_requests_total", endpoint, code).inc()
        self._histogram("jobrun_source_api_request_duration_seconds", endpoint).observe(seconds)

    def retry(self) -> None:
        """A request is sent again."""
        self._counter("jobrun_source_api_retries_total").inc()

    def waited(self, seconds: float) -> None:
        """So long a request waited for the budget."""
        self._counter("jobrun_source_rate_limit_wait_seconds_total").inc(max(0.0, seconds))

    def limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """The API's tightest rate limit; what is unknown is absent."""
        self._set("jobrun_source_rate_limit_limit_requests", limit)
        self._set("jobrun_source_rate_limit_remaining_requests", remaining)
        self._set("jobrun_source_rate_limit_reset_timestamp_seconds", reset)

    def credential_expiry(self, timestamp: float | None) -> None:
        """When the credential ends, absent if unknown."""
        self._set("jobrun_source_credential_expiry_timestamp_seconds", timestamp)

    def info(self, provider: str, api_url: str) -> None:
        """What the source reads; replaces what was said before."""
        self._drop("jobrun_source_info")
        self._set("jobrun_source_info", 1, provider, api_url)

    def polled(self, outcome: str, ended: float, duration: float) -> None:
        """A poll ended, with one of `OUTCOMES`, at this instant, after so many seconds."""
        self._counter("jobrun_source_polls_total", outcome).inc()
        self._set("jobrun_source_last_poll_timestamp_seconds", ended)
        self._set("jobrun_source_last_poll_duration_seconds", duration)
        if outcome == "success":
            self._set("jobrun_source_last_success_timestamp_seconds", ended)

    def skipped(self) -> None:
        """A poll was left out."""
        self._counter("jobrun_source_polls_total", "skipped").inc()

    def poll_error(self, reason: str) -> None:
        """A poll met an error, one of `exporter.errors.REASONS`."""
        self._counter("jobrun_source_poll_errors_total", reason).inc()

    def up(self, up: bool) -> None:  # noqa: FBT001  # the value of a gauge
        """Whether every readable scope answered."""
        self._set("jobrun_source_up", up)

    def scopes(self, readable: int, unreadable: int) -> None:
        """Scopes by whether they may be read."""
        self._set("jobrun_source_scopes", readable, "readable")
        self._set("jobrun_source_scopes", unreadable, "unreadable")

    def jobs(self, count: int) -> None:
        """Jobs known."""
        self._set("jobrun_source_jobs", count)

    def fetched(self, disposition: str, count: int = 1) -> None:
        """What became of so many rows, a value of `Disposition`."""
        self._counter("jobrun_source_runs_fetched_total", str(disposition)).inc(count)

    def observation_delays(self, delays: Sequence[float]) -> None:
        """So many seconds after their ends runs were counted; the series is there from the first on."""
        if not delays:
            return
        histogram = self._histogram("jobrun_source_observation_delay_seconds")
        for seconds in delays:
            histogram.observe(max(0.0, seconds))

    def watermark(self, timestamp: float | None) -> None:
        """All endings up to here are counted; absent before the first reading."""
        self._set("jobrun_source_watermark_timestamp_seconds", timestamp)

    def last_success(self, timestamp: float | None) -> None:
        """When a poll last succeeded, where that is known from an earlier process."""
        self._set("jobrun_source_last_success_timestamp_seconds", timestamp)

    def poll_interval(self, seconds: float) -> None:
        """The interval now in force."""
        self._set("jobrun_source_poll_interval_seconds", seconds)

    def step_fetches_pending(self, count: int) -> None:
        """Ended runs whose steps have yet to be fetched."""
        self._set("jobrun_source_step_fetches_pending", count)

    def missed_poll(self, count: int = 1) -> None:
        """A poll came due while one was running."""
        self._counter("jobrun_exporter_scheduler_missed_polls_total").inc(count)

    def tracked_runs(self, count: int) -> None:
        """Open runs that are followed."""
        self._set("jobrun_exporter_tracked_runs", count)

    def value(self, family: str, *labels: str) -> float | None:
        """What a gauge was last set to; None if it is absent."""
        with self._lock:
            return self._values.get((family, *labels))

    def close(self) -> None:
        """Takes all series of the source away; none comes back."""
        with self._lock:
            self._closed = True
            for family in {key[0] for key in self._children}:
                self._drop(family)

    def _set(self, family: str, value: float | None, *labels: str) -> None:
        """Sets a gauge; None takes it away."""
        with self._lock:
            if value is None:
                self._drop(family)
            else:
                shown(self._child(family, *labels), Gauge).set(value)
                self._values[family, *labels] = value

    def _counter(self, family: str, *labels: str) -> Counter:
        return shown(self._child(family, *labels), Counter)

    def _histogram(self, family: str, *labels: str) -> Histogram:
        return shown(self._child(family, *labels), Histogram)

    def _child(self, *key: str) -> Metric:
        """The series of a family and the labels after `source`; one that goes nowhere once the source is removed."""
        with self._lock:
            child = self._children.get(key)
            if child is None:
                child = self._families[key[0]].labels(self._name, *key[1:])
                self._children[key] = child
                if self._closed:
                    self._drop(key[0])
            return child

    def _drop(self, family: str) -> None:
        with self._lock:
            for key in [key for key in self._children if key[0] == family]:
                del self._children[key]
                self._values.pop(key, None)
                self._families[family].remove(self._name, *key[1:])


def make(family: SourceFamily, common: tuple[str, ...] = ()) -> Metric:
    """The client library's object of a row, on no registry yet."""
    labels = (*common, *family.labels)
    if family.kind is Histogram:
        return Histogram(family.name, family.help, labels, registry=None, buckets=family.buckets)
    return family.kind(family.name, family.help, labels, registry=None)


def shown(metric: Metric, kind: type[Kind]) -> Kind:
    """The metric as what its row says it is."""
    if not isinstance(metric, kind):
        raise TypeError(f"{metric} is no {kind.__name__}")
    return metric
