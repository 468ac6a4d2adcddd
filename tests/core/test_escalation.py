"""Team and severity of a job's alerts, as the page shows them."""

import pytest
import structlog

from exporter.model import Job
from exporter.snapshot.snapshot import Ownership
from tests.core.page_harness import PageHarness

INFO = "jobrun_job_info"


@pytest.fixture
def page_of(tmp_path):
    """Return a function that returns the page of some jobs for a config."""
    committed = []

    def page(*jobs, more="", source=""):
        harness = PageHarness(tmp_path / f"{len(committed)}.db", more=more, source=source)
        committed.append(harness)
        harness.read(jobs=[Job(job_id=f"id-{name}", name=name, **fields) for name, fields in jobs])
        return harness

    yield page
    for harness in committed:
        harness.close()


LOAD, SYNC = ("load", {}), ("sync", {})


def test_by_default_jobs_page_critically_after_three_failures(page_of):
    page = page_of(LOAD)
    assert page.scrape(INFO, "job_name", "team", "page", "stop_cause") == {("load", "", "critical", ""): 1}
    assert page.scrape("jobrun_job_failures_to_page", "job_name") == {("load",): 3}


def test_an_objective_sets_team_page_and_failures_of_its_jobs(page_of):
    objectives = "objectives: [{match: {job_name: load}, team: data, page: warning, failures_to_page: 5}]"
    page = page_of(LOAD, SYNC, more=objectives)
    assert page.scrape(INFO, "job_name", "team", "page") == {
        ("load", "data", "warning"): 1,
        ("sync", "", "critical"): 1,
    }
    assert page.scrape("jobrun_job_failures_to_page", "job_name") == {("load",): 5, ("sync",): 3}


def test_jobs_have_the_team_of_their_source_unless_their_objective_names_one(page_of):
    page = page_of(LOAD, SYNC, source=", team: ops", more="objectives: [{match: {job_name: load}, team: data}]")
    assert page.scrape(INFO, "job_name", "team") == {("load", "data"): 1, ("sync", "ops"): 1}


@pytest.mark.parametrize(
    ("source", "objective", "page"),
    [
        ("critical", "critical", "critical"),
        ("critical", "warning", "warning"),
        ("warning", "critical", "warning"),
        ("warning", "none", "none"),
        ("none", "critical", "none"),
        ("none", "warning", "none"),
    ],
)
def test_a_job_never_pages_higher_than_its_source_and_its_objective_allow(page_of, source, objective, page):
    shown = page_of(LOAD, source=f", page: {source}", more=f"objectives: [{{page: {objective}}}]")
    assert shown.scrape(INFO, "page") == {(page,): 1}


def test_why_the_vendor_stopped_a_job_is_shown_without_control_characters(page_of):
    page = page_of(("load", {"enabled": False, "stop_cause": "trigger\nlimit"}))
    assert page.scrape(INFO, "stop_cause") == {("trigger limit",): 1}


def test_all_series_have_the_labels_of_all_objectives(page_of):
    objectives = """objectives:
  - {match: {job_name: load}, labels: {tier: gold, cost_center: "17"}}
  - {match: {job_name: sync}, labels: {room: "a\\"b"}}
"""
    page = page_of(LOAD, SYNC, ("free", {}), more=objectives)
    assert page.scrape(INFO, "job_name", "tier", "cost_center", "room") == {
        ("load", "gold", "17", ""): 1,
        ("sync", "", "", 'a"b'): 1,
        ("free", "", "", ""): 1,
    }
    lines = [line for line in bytes(page.exposition.page.text).decode().splitlines() if line.startswith(f"{INFO}{{")]
    assert len(lines) == 3
    assert all("cost_center=" in line and "room=" in line and "tier=" in line for line in lines)


def test_two_jobs_of_one_name_have_the_objective_of_that_name(page_of):
    page = page_of(more="objectives: [{match: {job_name: Sync orders}, freshness: 1h, team: data}]")
    page.read(jobs=[Job(job_id="11", name="Sync orders"), Job(job_id="22", name="Sync orders")])
    assert page.scrape(INFO, "job_name", "team") == {("Sync orders", "data"): 1, ("Sync orders #22", "data"): 1}
    assert len(page.scrape("jobrun_job_freshness_objective_seconds", "job_name")) == 2


COUNTED = "jobrun_objective_jobs"
TWO = "objectives: [{match: {job_name: load.*}}, {match: {job_name: dayly}}, {match: {job_name: load}}]"


def test_each_objective_exposes_its_number_of_jobs_and_one_without_jobs_is_logged_once(page_of):
    with structlog.testing.capture_logs() as lines:
        page = page_of(LOAD, SYNC, more=TWO)
        for _ in range(2):
            assert page.scrape(COUNTED, "objective") == {("0",): 1, ("1",): 0, ("2",): 0}
    said = [line for line in lines if line["event"] == "objective matches no job"]
    assert [(line["objective"], line["jobs"]) for line in said] == [(1, 2), (2, 2)]
    assert page.publisher.snapshot.exporter.unmatched == (1, 2)


def test_a_replica_finds_objectives_that_match_no_job_also_of_sources_that_others_poll(page_of):
    page = page_of(LOAD, SYNC, more=TWO)
    page.reopen()  # from now on another replica polls
    page.publisher.ownership = lambda: Ownership(
        replica="a", replicas=2, sources=frozenset(), taken={}, lost=0, last_commit=None
    )
    page.publisher.publish()
    assert page.publisher.snapshot.exporter.unmatched == (1, 2)


def test_two_jobs_of_one_name_count_for_an_objective(page_of):
    page = page_of(more="objectives: [{match: {job_name: Sync orders}}]")
    page.read(jobs=[Job(job_id="11", name="Sync orders"), Job(job_id="22", name="Sync orders")])
    assert page.scrape(COUNTED, "objective") == {("0",): 2}


def test_objectives_are_not_exposed_before_all_sources_were_read(tmp_path):
    with structlog.testing.capture_logs() as lines:
        harness = PageHarness(tmp_path / "state.db", more=TWO)
        assert harness.scrape(COUNTED, "objective") == {("0",): 0, ("1",): 0, ("2",): 0}
    assert [line for line in lines if "objective" in line["event"]] == []
    assert harness.publisher.snapshot.exporter.unmatched == ()
    harness.close()
