from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog

from exporter.config import Objective
from exporter.counting.records import JobState, OpenRun
from exporter.cron import parse_schedule
from exporter.learning.cadence import Cadence
from exporter.learning.learned import Learned
from exporter.model import Job, State
from exporter.polling.poll import backoff
from exporter.snapshot.expectations import due_after, expectation
from tests.core.page_harness import PageHarness


def objective_of(**texts: Any) -> Objective:
    """Return an objective, written as in the config."""
    return Objective.model_validate(texts)


def at(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


# --- a start close to its time ---


@pytest.mark.parametrize(
    ("schedule", "start", "due"),
    [
        ("0 3 * * *", "2024-01-01T02:59:58", "2024-01-02T03:00"),
        ("0 3 * * *", "2024-01-01T02:59:30", "2024-01-02T03:00"),
        ("0 3 * * *", "2024-01-01T02:58:00", "2024-01-02T03:00"),
        ("0 3 * * *", "2024-01-01T02:57:00", "2024-01-01T03:00"),
        ("0 3 * * *", "2024-01-01T03:00:00", "2024-01-02T03:00"),
        ("0 3 * * *", "2024-01-01T03:00:02", "2024-01-02T03:00"),
        ("0 3 * * *", "2024-01-01T09:00:00", "2024-01-02T03:00"),
        ("*/5 * * * *", "2024-01-01T02:59:30", "2024-01-01T03:05"),
        ("*/5 * * * *", "2024-01-01T02:58:30", "2024-01-01T03:00"),
        ("* * * * *", "2024-01-01T02:59:50", "2024-01-01T03:01"),
        ("* * * * *", "2024-01-01T02:59:30", "2024-01-01T03:00"),
    ],
)
def test_a_start_shortly_before_a_scheduled_time_belongs_to_that_time(schedule, start, due):
    assert due_after(parse_schedule(schedule), at(start)) == at(due)


def job(**fields):
    known = Job(**{"job_id": "j", "name": "j", **fields.pop("job", {})})
    return JobState(
        key=1, source="s", job=known, project="", name="j", discovered=at("2024-01-01"), baseline=0, **fields
    )


def opened(**fields):
    return OpenRun(**{"run_id": "r", "job": 1, "job_id": "j", "scope": "", "state": State.EXECUTING, **fields})


CRON = {"schedule": "0 3 * * *"}
THREE = at("2024-01-02T03:00")


@pytest.mark.parametrize(
    ("state", "open_runs", "due"),
    [
        (job(job=CRON), (), "2024-01-01T03:00"),
        (job(job=CRON, last_start=THREE), (), "2024-01-03T03:00"),
        (job(job=CRON, last_start=THREE - 2), (), "2024-01-03T03:00"),
        (job(job=CRON, last_start=THREE, expected_since=at("2024-01-05T02:59:30")), (), "2024-01-05T03:00"),
        (job(job=CRON), [opened(origin=THREE, start=THREE)], "2024-01-03T03:00"),
        (job(job=CRON), [opened(origin=THREE, state=State.PENDING)], "2024-01-03T03:00"),
        (job(job=CRON), [opened(origin=THREE, scheduled=THREE, state=State.PENDING)], "2024-01-01T03:00"),
        (job(job={**CRON, "enabled": False}, last_start=THREE), (), None),
        (job(last_start=THREE), (), None),
    ],
    ids=[
        "never ran", "ran", "ran 2 s early", "changed since", "runs", "waits", "will wait", "disabled", "no schedule"
    ],
)  # fmt: skip
def test_a_run_is_due_after_the_last_start(state, open_runs, due):
    assert expectation(state, None, open_runs=open_runs).next_expected == (None if due is None else at(due))


def test_an_objective_takes_precedence_over_the_vendor_and_over_learned_values():
    learned = Learned(cadence=Cadence(distance=60, patience=60), freshness=100, duration_budget=200)
    objective = objective_of(every="1h", freshness="26h", duration_budget="45m", team="data")
    found = expectation(job(job=CRON, last_start=THREE, learned=learned), objective)
    assert (found.next_expected, found.freshness, found.duration_budget) == (THREE + 3600, 26 * 3600, 45 * 60)
    assert (found.schedule, found.learned) == ("every 3600s", ())

    found = expectation(job(last_start=THREE, learned=learned), Objective(team="data"))
    assert (found.next_expected, found.freshness, found.duration_budget) == (THREE + 120, 100, 200)
    assert found.schedule == ""


def test_a_configured_schedule_is_in_its_own_time_zone_and_not_in_the_vendors():
    state = job(job={**CRON, "timezone": "Asia/Tokyo"}, last_start=THREE)
    assert expectation(state, None).next_expected == at("2024-01-02T18:00")
    assert expectation(state, objective_of(schedule="0 4 * * *")).next_expected == at("2024-01-02T04:00")
    berlin = objective_of(schedule="0 4 * * *", timezone="Europe/Berlin")
    assert expectation(state, berlin).next_expected == at("2024-01-03T03:00")


@pytest.mark.parametrize(
    ("schedule", "timezone"), [("@reboot", ""), ("0 3 * * *", "PST8PDT7"), ("TZ=Nowhere/Town 0 3 * * *", "")]
)
def test_with_an_unparsable_schedule_the_next_run_is_learned(schedule, timezone):
    learned = Learned(cadence=Cadence(distance=60, patience=60))
    found = expectation(job(job={"schedule": schedule, "timezone": timezone}, last_start=THREE, learned=learned), None)
    assert (found.unparsed, found.next_expected, found.learned) == (True, THREE + 120, ("next_run",))
    assert found.schedule == schedule


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("@daily", "2024-01-03T00:00"),
        ("@every 24h", "2024-01-03T03:00"),
        ("TZ=Asia/Tokyo 0 3 * * *", "2024-01-02T18:00"),
        ("0 3 ? * *", "2024-01-03T03:00"),
    ],
)
@pytest.mark.parametrize("configured", [False, True])
def test_cron_dialects_of_vendors_are_parsed(schedule, due, configured):
    objective = Objective(schedule=schedule) if configured else None
    learned = Learned(cadence=Cadence(distance=60, patience=60))
    state = job(job={} if configured else {"schedule": schedule}, last_start=THREE, learned=learned)
    found = expectation(state, objective)
    assert (found.unparsed, found.next_expected, found.learned) == (False, at(due), ())


def test_an_unparsable_schedule_is_exposed_and_logged_once(tmp_path):
    harness = PageHarness(tmp_path / "state.db")
    jobs = [Job(job_id="a", name="a", schedule="@reboot"), Job(job_id="b", name="b", schedule="@daily")]
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            harness.read(jobs=jobs)
            assert harness.scrape("jobrun_job_schedule_unparsed", "job_name") == {("a",): 1}
    said = [line for line in lines if "schedule not understood" in line["event"]]
    assert [(line["job_name"], line["schedule"]) for line in said] == [("a", "@reboot")]
    harness.close()


def test_no_run_is_expected_of_a_job_that_may_not_be_read(tmp_path):
    harness = PageHarness(tmp_path / "state.db")
    expected = "jobrun_job_next_run_expected_timestamp_seconds"
    nightly = Job(job_id="j", name="nightly", scope="customer", schedule="0 3 * * *")
    harness.read(jobs=[nightly], scope="customer")
    assert harness.scrape(expected, "job_name").keys() == {("nightly",)}
    harness.read(scope="customer", jobs=(), readable=False)
    assert harness.scrape(expected, "job_name") == {}
    harness.read(jobs=[nightly], scope="customer")
    assert harness.scrape(expected, "job_name").keys() == {("nightly",)}


# --- polls that fail ---


@pytest.mark.parametrize(
    ("interval", "failures", "seconds"),
    [
        (60, 0, 60), (60, 1, 60), (60, 2, 120), (60, 3, 240), (60, 4, 300), (60, 50, 300),
        (10, 1, 10), (10, 2, 20), (10, 5, 100), (10, 1000, 100),
        (600, 1, 600), (600, 9, 600),
    ],
)  # fmt: skip
def test_polls_come_less_often_while_they_fail_but_never_more_often(interval, failures, seconds):
    assert backoff(interval, failures) == seconds
