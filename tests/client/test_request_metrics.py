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
    meter.count_request("/x", "200", 0.3)
    assert metrics.source("s") is meter


def test_before_the_first_request_counters_are_0_and_nothing_is_known_about_the_api(metrics, registry):
    recorder = metrics.source("s", ["/runs", "/token"])
    assert {line.rsplit(" ", 1)[1] for line in lines(registry)} == {"0.0"}
    assert 'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 0.0' in lines(registry)
    assert (recorder.rate_limit, recorder.expiry) == (RateLimit(), None)


def record_everything(metrics):
    recorder = metrics.source("s", ["/runs"])
    recorder.add_wait(1.5)
    recorder.count_retry()
    recorder.count_request("/runs", "200", 0.2)
    return recorder


def test_every_metric_about_requests_shows_what_was_observed(metrics, registry):
    record_everything(metrics)
    assert {
        'jobrun_source_rate_limit_wait_seconds_total{source="s"} 1.5',
        'jobrun_source_api_retries_total{source="s"} 1.0',
        'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 1.0',
        'jobrun_source_api_request_duration_seconds_count{endpoint="/runs",source="s"} 1.0',
    } <= set(lines(registry))
    assert all(any(line.startswith(family.name) for line in lines(registry)) for family in REQUEST_FAMILIES)


def test_the_latest_rate_limit_and_expiry_are_kept(metrics):
    recorder = record_everything(metrics)
    recorder.set_limits(100, 50, 1.7e9)
    recorder.set_credential_expiry(1.8e9)
    assert (recorder.rate_limit, recorder.expiry) == (RateLimit(limit=100, remaining=50, reset=1.7e9), 1.8e9)
    recorder.set_limits(None, None, None)
    recorder.set_credential_expiry(None)
    assert (recorder.rate_limit, recorder.expiry) == (RateLimit(), None)


def test_a_removed_source_leaves_nothing_and_its_recorder_brings_nothing_back(metrics, registry):
    recorder = record_everything(metrics)
    metrics.source("t")
    metrics.remove("s")
    metrics.remove("never there")
    recorder.count_request("/runs", "500", 1.0)
    recorder.count_retry()
    assert [line for line in lines(registry) if 'source="s"' in line] == []
    assert [line for line in lines(registry) if 'source="t"' in line]


def test_a_removed_source_can_return_at_zero(metrics, registry):
    record_everything(metrics)
    metrics.remove("s")
    metrics.source("s")
    assert 'jobrun_source_api_retries_total{source="s"} 0.0' in lines(registry)
