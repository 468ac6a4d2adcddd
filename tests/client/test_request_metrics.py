import pytest
from prometheus_client import CollectorRegistry, generate_latest

from exporter.client.transport import RequestRecorder
from exporter.counting.records import RateLimit
from exporter.metrics.families import REQUEST_FAMILIES
from exporter.metrics.requests import RequestMetrics


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return RequestMetrics(registry)


def lines(registry):
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#") and "_created" not in line]


def test_a_source_has_one_recorder_of_requests(metrics):
    meter: RequestRecorder = metrics.source("s")
    meter.request("/x", "200", 0.3)
    assert metrics.source("s") is meter


def test_before_the_first_request_counters_are_0_and_nothing_is_known_about_the_api(metrics, registry):
    observer = metrics.source("s", ["/runs", "/token"])
    assert {line.rsplit(" ", 1)[1] for line in lines(registry)} == {"0.0"}
    assert 'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 0.0' in lines(registry)
    assert (observer.rate_limit, observer.expiry) == (RateLimit(), None)


def observe_everything(metrics):
    observer = metrics.source("s", ["/runs"])
    observer.waited(1.5)
    observer.retry()
    observer.request("/runs", "200", 0.2)
    return observer


def test_every_metric_about_requests_shows_what_was_observed(metrics, registry):
    observe_everything(metrics)
    assert {
        'jobrun_source_rate_limit_wait_seconds_total{source="s"} 1.5',
        'jobrun_source_api_retries_total{source="s"} 1.0',
        'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 1.0',
        'jobrun_source_api_request_duration_seconds_count{endpoint="/runs",source="s"} 1.0',
    } <= set(lines(registry))
    assert all(any(line.startswith(family.name) for line in lines(registry)) for family in REQUEST_FAMILIES)


def test_the_latest_rate_limit_and_expiry_are_kept(metrics):
    observer = observe_everything(metrics)
    observer.limits(100, 50, 1.7e9)
    observer.credential_expiry(1.8e9)
    assert (observer.rate_limit, observer.expiry) == (RateLimit(limit=100, remaining=50, reset=1.7e9), 1.8e9)
    observer.limits(None, None, None)
    observer.credential_expiry(None)
    assert (observer.rate_limit, observer.expiry) == (RateLimit(), None)


def test_a_removed_source_leaves_nothing_and_its_observer_brings_nothing_back(metrics, registry):
    observer = observe_everything(metrics)
    metrics.source("t")
    metrics.remove("s")
    metrics.remove("never there")
    observer.request("/runs", "500", 1.0)
    observer.retry()
    assert [line for line in lines(registry) if 'source="s"' in line] == []
    assert [line for line in lines(registry) if 'source="t"' in line]


def test_a_removed_source_can_come_back_at_zero(metrics, registry):
    observe_everything(metrics)
    metrics.remove("s")
    metrics.source("s")
    assert 'jobrun_source_api_retries_total{source="s"} 0.0' in lines(registry)
