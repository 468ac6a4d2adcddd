import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.client.transport import Meter
from exporter.errors import REASONS
from exporter.metrics.meters import EXPORTER_FAMILIES, SOURCE_FAMILIES, SelfMetrics
from exporter.model import Disposition


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return SelfMetrics(registry)


def lines(registry):
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#") and "_created" not in line]


def of(registry, family):
    return [line for line in lines(registry) if line.startswith(family)]


def test_a_source_meter_is_a_meter(metrics):
    meter: Meter = metrics.source("s")
    meter.request("/x", "200", 0.3)
    assert metrics.source("s") is meter


def test_before_anything_is_known_only_seeds_are_shown(metrics, registry):
    metrics.source("s", ["/runs", "/token"])
    shown = lines(registry)
    values = {line.rsplit(" ", 1)[1] for line in shown}
    assert values == {"0.0"}
    assert not [line for line in shown if "timestamp" in line or "_up" in line or "rate_limit_limit" in line]
    assert 'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 0.0' in shown
    assert len(of(registry, "jobrun_source_poll_errors_total")) == len(REASONS)
    assert len(of(registry, "jobrun_source_polls_total")) == 4
    assert len(of(registry, "jobrun_source_runs_fetched_total")) == len(Disposition)
    assert of(registry, "jobrun_exporter_state_commit_errors_total") == [
        "jobrun_exporter_state_commit_errors_total 0.0"
    ]


def tell_everything(metrics):
    meter = metrics.source("s", ["/runs"])
    meter.info("snowplow", "https://api.example.com")
    meter.up(up=True)
    meter.scopes(3, 1)
    meter.jobs(7)
    meter.watermark(1.7e9)
    meter.polled("success", 1.7e9, 2.5)
    meter.poll_interval(60.0)
    meter.credential_expiry(1.8e9)
    meter.step_fetches_pending(2)
    meter.poll_error("auth")
    meter.fetched(Disposition.NEW, 3)
    meter.waited(1.5)
    meter.retry()
    meter.request("/runs", "200", 0.2)
    meter.observation_delays([45.0])
    meter.limits(100, 50, 1.7e9)
    meter.missed_poll()
    meter.tracked_runs(10)
    metrics.build_info("1", "abc", "3.11")
    metrics.reloaded(1.7e9)
    metrics.committed(1.7e9, 4096)
    metrics.series({"jobrun_runs_total": 5}, 100)
    metrics.objectives([2])
    return meter


def test_every_family_shows_what_it_was_told(metrics, registry):
    tell_everything(metrics)
    shown = set(lines(registry))
    expected = {
        'jobrun_source_up{source="s"} 1.0',
        'jobrun_source_info{api_url="https://api.example.com",provider="snowplow",source="s"} 1.0',
        'jobrun_source_scopes{source="s",state="readable"} 3.0',
        'jobrun_source_scopes{source="s",state="unreadable"} 1.0',
        'jobrun_source_jobs{source="s"} 7.0',
        'jobrun_source_watermark_timestamp_seconds{source="s"} 1.7e+09',
        'jobrun_source_last_poll_timestamp_seconds{source="s"} 1.7e+09',
        'jobrun_source_last_success_timestamp_seconds{source="s"} 1.7e+09',
        'jobrun_source_last_poll_duration_seconds{source="s"} 2.5',
        'jobrun_source_poll_interval_seconds{source="s"} 60.0',
        'jobrun_source_credential_expiry_timestamp_seconds{source="s"} 1.8e+09',
        'jobrun_source_step_fetches_pending{source="s"} 2.0',
        'jobrun_source_polls_total{outcome="success",source="s"} 1.0',
        'jobrun_source_poll_errors_total{reason="auth",source="s"} 1.0',
        'jobrun_source_runs_fetched_total{disposition="new",source="s"} 3.0',
        'jobrun_source_rate_limit_wait_seconds_total{source="s"} 1.5',
        'jobrun_source_api_retries_total{source="s"} 1.0',
        'jobrun_source_api_requests_total{code="200",endpoint="/runs",source="s"} 1.0',
        'jobrun_source_api_request_duration_seconds_count{endpoint="/runs",source="s"} 1.0',
        'jobrun_source_observation_delay_seconds_bucket{le="60.0",source="s"} 1.0',
        'jobrun_source_rate_limit_limit_requests{source="s"} 100.0',
        'jobrun_source_rate_limit_remaining_requests{source="s"} 50.0',
        'jobrun_source_rate_limit_reset_timestamp_seconds{source="s"} 1.7e+09',
        'jobrun_exporter_scheduler_missed_polls_total{source="s"} 1.0',
        'jobrun_exporter_tracked_runs{source="s"} 10.0',
        'jobrun_exporter_build_info{python_version="3.11",revision="abc",version="1"} 1.0',
        "jobrun_exporter_config_last_reload_successful 1.0",
        "jobrun_exporter_config_last_reload_success_timestamp_seconds 1.7e+09",
        "jobrun_exporter_state_last_commit_timestamp_seconds 1.7e+09",
        "jobrun_exporter_state_size_bytes 4096.0",
        'jobrun_exporter_series{family="jobrun_runs_total"} 5.0',
        "jobrun_exporter_series_limit 100.0",
    }
    assert expected - shown == set()


def test_every_row_of_the_tables_can_be_told(metrics, registry):
    tell_everything(metrics)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    shown = {family.name for family in families if family.samples}
    assert {row.name.removesuffix("_total") for row in (*SOURCE_FAMILIES, *EXPORTER_FAMILIES)} <= shown


def test_what_becomes_unknown_is_absent_again(metrics, registry):
    meter = tell_everything(metrics)
    meter.credential_expiry(None)
    meter.limits(100, None, None)
    assert of(registry, "jobrun_source_credential_expiry") == []
    assert of(registry, "jobrun_source_rate_limit_remaining") == []
    assert len(of(registry, "jobrun_source_rate_limit_limit")) == 1


def test_a_source_has_one_info_series(metrics, registry):
    meter = tell_everything(metrics)
    meter.info("snowplow", "https://other.example.com")
    assert of(registry, "jobrun_source_info") == [
        'jobrun_source_info{api_url="https://other.example.com",provider="snowplow",source="s"} 1.0'
    ]


def test_a_refused_reload_keeps_the_time_of_the_last_good_one(metrics, registry):
    metrics.reloaded(1.7e9)
    metrics.reloaded(None)
    assert of(registry, "jobrun_exporter_config_last_reload") == [
        "jobrun_exporter_config_last_reload_successful 0.0",
        "jobrun_exporter_config_last_reload_success_timestamp_seconds 1.7e+09",
    ]


def test_series_of_a_family_that_is_no_more_go(metrics, registry):
    metrics.series({"a": 1, "b": 2}, 10)
    metrics.series({"b": 3}, 10)
    assert of(registry, "jobrun_exporter_series{") == ['jobrun_exporter_series{family="b"} 3.0']


def test_a_removed_source_leaves_nothing_and_its_meter_brings_nothing_back(metrics, registry):
    meter = tell_everything(metrics)
    metrics.source("t")
    metrics.remove("s")
    metrics.remove("never there")
    meter.request("/runs", "500", 1.0)
    meter.up(up=True)
    meter.retry()
    assert [line for line in lines(registry) if 'source="s"' in line] == []
    assert [line for line in lines(registry) if 'source="t"' in line]


def test_a_removed_source_can_come_back_at_zero(metrics, registry):
    tell_everything(metrics)
    metrics.remove("s")
    metrics.source("s")
    assert 'jobrun_source_api_retries_total{source="s"} 0.0' in lines(registry)
