"""Rules that hold for many families at once, from the ledger to the page and across restarts."""

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.metrics.families import COLD_STARTS, OVERFLOW, STEPS_LOST, TRUNCATED, UNMAPPED, UNOBSERVED
from exporter.model import Result, State, Step, Window
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, ended, run
from tests.core.page_harness import PageHarness

KEPT = (
    *(RUNS, f"{DURATIONS}_count", "jobrun_run_errors_total", "jobrun_steps_total", "jobrun_step_root_failures_total"),
    *("jobrun_step_duration_seconds_count", UNOBSERVED, TRUNCATED, STEPS_LOST, UNMAPPED, OVERFLOW, COLD_STARTS),
)
"""Counters of jobs, and those of sources and the exporter that persist."""


@pytest.fixture
def harness(tmp_path):
    harness = PageHarness(tmp_path / "state.db", zero_first="0s", max_series=100)
    yield harness
    harness.close()


def sums(harness):
    labels = ("source", "job_name", "result", "step_name", "error_type", "status", "family", "reason")
    return {name: harness.scrape(name, *labels) for name in KEPT}


def test_counters_of_jobs_and_of_what_was_lost_survive_a_restart(harness):
    steps = {"a": [Step(name="load", result=Result.FAILURE, duration=7.0)]}
    harness.read(
        ended("a", result=Result.FAILURE, error_type="oom"),
        ended("b", job_id="folded"),
        run("c", start=BASELINE + 1, unmapped="PAUSED"),
        steps=steps,
        unobserved=[Window(BASELINE - 7200, BASELINE - 3600)],
        truncated=1,
    )
    row = harness.ledger.pending_steps("s", harness.now, 9)[0]
    for _ in range(4):
        harness.ledger.record_missing_steps("s", row, harness.poll_context)
        row = harness.row(row.run.run_id)
    before = sums(harness)
    assert [name for name, series in before.items() if not any(series.values())] == []
    harness.reopen()
    harness.read()
    assert sums(harness) == before


def exemplars(harness):
    """Return run ID and timestamp of each exemplar of successes: of the counter, and of the buckets."""
    page: Any = harness.exposition.page
    samples = [
        each for family in text_string_to_metric_families(bytes(page.openmetrics).decode()) for each in family.samples
    ]
    found = [each for each in samples if each.exemplar and each.labels["result"] == "success"]
    return {(each.name, each.exemplar.labels["run_id"], float(each.exemplar.timestamp)) for each in found}


def test_an_exemplar_is_of_the_newest_run_by_its_end_and_survives_a_restart(harness):
    for run_id, end in (("first", 100), ("newest", 300), ("late", 200)):
        harness.read(ended(run_id, BASELINE + end))
    names = ("jobrun_runs_total", "jobrun_run_duration_seconds_bucket")
    newest = {(name, "newest", BASELINE + 300) for name in names}
    harness.publisher.publish()
    assert exemplars(harness) == newest
    harness.reopen()
    harness.read()
    harness.publisher.publish()
    assert exemplars(harness) == newest


def test_each_completed_run_with_a_start_and_an_end_has_a_duration_whatever_its_result(harness):
    harness.read(*(ended(str(result), result=result) for result in Result))
    assert harness.scrape(f"{DURATIONS}_count", "result") == {(str(result),): 1 for result in Result}


def test_a_run_with_an_unmapped_status_has_no_state_and_a_pending_one_has_no_age_of_execution(harness):
    harness.read(run("a", start=BASELINE + 1, unmapped="PAUSED"), run("b", state=State.PENDING, created=BASELINE + 2))
    assert harness.scrape("jobrun_active_runs", "state") == {("pending",): 1, ("executing",): 0}
    oldest = harness.scrape("jobrun_oldest_active_run_start_timestamp_seconds", "state")
    assert oldest == {("pending",): BASELINE + 2}
