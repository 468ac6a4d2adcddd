"""Status of jobs and sources, and their problems."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.config import Objective
from exporter.counting.records import RateLimit, SourceStatus
from exporter.ledger.status import PollReport
from exporter.model import Job, Window
from exporter.queries import problems as problems_module
from exporter.queries.errors import QueryError
from exporter.queries.filters import JobOrder, JobQuery
from exporter.queries.sources import source_report
from exporter.simulators.disruptions import Status
from exporter.snapshot.conditions import KINDS, NOT_ON_PAGE, STATUSES
from tests.contract.harness import HOUR, MINUTE, NOW
from tests.queries.reports_harness import ended, running


def objective_of(**texts: Any) -> Objective:
    """Return an objective, written as in the config."""
    return Objective.model_validate(texts)


def add_job_of_each_status(harness):
    """Commit a job of each status; the watermark is an hour after NOW."""
    harness.configure(
        objectives=(
            objective_of(match={"job_name": "overdue"}, every="10m"),
            objective_of(match={"job_name": "stale"}, freshness="10m"),
            objective_of(match={"job_name": "stuck"}, duration_budget="10m", team="data"),
        )
    )
    harness.bench.clock.advance(HOUR + 60)
    harness.commit(
        ended("f1", NOW + 10, "failure", job="failing", error_type="server"),
        ended("f2", NOW + 20, "failure", job="failing"),
        ended("o", NOW + 10, job="overdue"),
        ended("s", NOW + 10, job="stale"),
        running("w", NOW + 20, job="stuck"),
        ended("d", NOW + 10, job="disabled"),
        ended("ok", NOW + 10, job="ok"),
        jobs=[Job(job_id="idle", name="idle"), Job(job_id="disabled", name="disabled", enabled=False)],
        through=NOW + HOUR,
    )
    return harness


def started(harness):
    """Return a harness whose first poll was at NOW."""
    harness.bench.ledger.start_poll("one", NOW)
    return harness


def kinds(harness):
    return [(problem.kind, problem.job_name or problem.source) for problem in harness.reporter.problems()]


def test_each_job_has_the_status_that_is_most_urgent(harness):
    listed = add_job_of_each_status(started(harness)).reporter.jobs(JobQuery())
    assert [(job.job_name, job.status) for job in listed.jobs] == [(status, status) for status in STATUSES]
    assert listed.statuses == dict.fromkeys(STATUSES, 1)
    assert (listed.total, listed.page, listed.pages) == (7, 1, 1)


def test_problems_come_most_urgent_first(harness):
    add_job_of_each_status(started(harness))
    assert kinds(harness) == [
        ("JobrunNoRecentSuccess", "stale"),
        ("JobrunLastRunFailed", "failing"),
        ("JobrunOverdue", "overdue"),
        ("JobrunRunStuck", "stuck"),
    ]
    sentences = {problem.kind: problem.sentence for problem in harness.reporter.problems()}
    assert sentences["JobrunLastRunFailed"] == "The last run failed, and no run has succeeded since."
    assert sentences["JobrunOverdue"].startswith("A run was expected 49m")
    assert "running for 59m40s; the limit is 10m" in sentences["JobrunRunStuck"]
    assert {problem.kind: problem.team for problem in harness.reporter.problems()}["JobrunRunStuck"] == "data"
    links = {problem.kind: problem.link for problem in harness.reporter.problems()}
    assert links["JobrunLastRunFailed"] == "/runs/one/f2"
    assert links["JobrunOverdue"] == "/runs?source=one&project=&job_name=overdue"


def test_a_job_is_not_overdue_while_nothing_can_be_read(harness):
    add_job_of_each_status(started(harness))
    harness.commit(ended("ok2", NOW + HOUR - 1, job="overdue"))
    before = kinds(harness)
    harness.bench.clock.advance(9 * HOUR)
    assert [each for each in kinds(harness) if each[0] != "JobrunSourceStale"] == before
    assert ("JobrunOverdue", "overdue") not in before


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"status": "stuck"}, ["stuck"]),
        ({"search": "TUCK"}, ["stuck"]),
        ({"team": "data"}, ["stuck"]),
        ({"job_name": "ok"}, ["ok"]),
        ({"project": ""}, list(STATUSES)),
        ({"project": "x"}, []),
        ({"order": JobOrder.NAME}, sorted(STATUSES)),
        ({"order": JobOrder.STREAK, "limit": 1}, ["failing"]),
        ({"order": JobOrder.LAST_RUN, "limit": 1}, ["failing"]),
        ({"limit": 3, "page": 2}, ["stuck", "disabled", "ok"]),
        ({"limit": 3, "page": 9}, []),
    ],
)
def test_jobs_are_filtered_ordered_and_paged(harness, wanted, found):
    listed = add_job_of_each_status(started(harness)).reporter.jobs(JobQuery(**wanted))
    assert [job.job_name for job in listed.jobs] == found


def test_an_unknown_source_is_refused(harness):
    with pytest.raises(QueryError, match="source"):
        harness.reporter.jobs(JobQuery(source="two"))


def test_expectations_change_with_the_job_and_the_config(harness):
    harness.commit(ended("a"))
    assert harness.reporter.jobs(JobQuery()).jobs[0].freshness is None
    harness.configure(objectives=(objective_of(freshness="1h"),))
    assert harness.reporter.jobs(JobQuery()).jobs[0].freshness == HOUR
    harness.commit(ended("b", NOW + 20, "failure"), running("c"))
    job = harness.reporter.jobs(JobQuery()).jobs[0]
    assert (job.streak, job.executing, job.oldest_start) == (1, 1, NOW)
    harness.commit(ended("c", NOW + 30))
    assert (harness.reporter.jobs(JobQuery()).jobs[0].executing) == 0


def test_recent_runs_are_included_only_on_request(harness):
    harness.commit(*(ended(f"r{n:02}", NOW + n) for n in range(25)))
    assert [each.run_id for each in harness.reporter.jobs(JobQuery()).jobs[0].recent] == [
        f"r{n:02}" for n in range(5, 25)
    ]
    assert harness.reporter.jobs(JobQuery(recent=False)).jobs[0].recent == ()


def test_a_source_reports_its_status(harness):
    bench = harness.bench
    bench.poll()
    bench.world.run("a", start=NOW + 10, duration=20, steps=["x"])
    bench.settle()
    bench.clock.advance(30)
    source = harness.reporter.sources()[0]
    assert (source.name, source.provider, source.up, source.last_outcome) == ("one", "snowplow", True, "success")
    assert (source.jobs, source.open_runs, source.steps_pending, source.scopes_readable) == (1, 0, 0, 1)
    assert source.lag == pytest.approx(bench.clock() - source.watermark)
    assert source.baseline == NOW
    assert source.poll_interval == MINUTE
    assert source.budget.requests_per_minute == 600
    assert source.credential_expiry > NOW
    assert kinds(harness) == []


def test_a_long_age_is_rounded(harness):
    add_job_of_each_status(started(harness))
    harness.bench.clock.advance(2 * HOUR)
    harness.commit(ended("ok2", NOW + 10, job="ok"))
    sentences = [problem.sentence for problem in harness.reporter.problems()]
    assert "A run has been running for 3h1m; the limit is 10m." in sentences


def test_the_rest_of_a_rate_limit_is_unknown_after_its_reset(harness):
    harness.bench.poll()
    harness.bench.publisher.publish()
    view = harness.bench.publisher.snapshot.sources["one"]
    limited = SourceStatus(rate_limit=RateLimit(limit=100, remaining=4, reset=NOW + 60))
    view = msgspec.structs.replace(view, state=msgspec.structs.replace(view.state, status=limited))
    assert source_report(view, NOW + 59).budget.remaining == 4
    after = source_report(view, NOW + 61).budget
    assert (after.limit, after.remaining, after.reset) == (100, None, None)


def test_a_source_that_cannot_be_read_is_a_problem_with_its_reason(harness):
    bench = harness.bench
    bench.poll()
    bench.simulator.disruptions.add(Status(endpoint="runs", code=500))
    bench.run(15 * MINUTE)
    source = harness.reporter.sources()[0]
    assert (source.up, source.last_outcome, source.last_reason) == (False, "error", "http_5xx")
    assert kinds(harness) == [("JobrunSourceDown", "one")]
    assert "http_5xx" in harness.reporter.problems()[0].sentence


def test_unobserved_time_is_a_problem_for_a_day(harness):
    harness.commit(ended("a"), unobserved=[Window(NOW - 7200, NOW - 3600), Window(NOW - 3700, NOW - 600)])
    source = harness.reporter.sources()[0]
    assert source.unobserved_seconds == 6600
    assert [(each.start, each.end) for each in source.unobserved] == [(NOW - 7200, NOW - 600)]
    assert ("JobrunSourceCoverageGap", "one") in kinds(harness)
    harness.bench.clock.advance(23 * HOUR)
    assert ("JobrunSourceCoverageGap", "one") in kinds(harness)
    harness.bench.clock.advance(HOUR)
    assert ("JobrunSourceCoverageGap", "one") not in kinds(harness)


def test_an_unreadable_scope_is_a_problem(harness):
    harness.commit(ended("a"))
    harness.commit(scope="customer-7", readable=False)
    assert harness.reporter.sources()[0].unreadable == ("customer-7",)
    assert ("JobrunSourceScopeUnreadable", "one") in kinds(harness)


def test_a_source_of_which_a_poll_read_a_part_is_not_reported_as_down(harness):
    harness.commit(ended("a"))
    report = PollReport(ended=NOW, duration=1.0, outcome="partial", error="customer 1: 503", scope_failed=True)
    harness.bench.ledger.finish_poll("one", report)
    harness.bench.publisher.publish()
    assert harness.reporter.sources()[0].up is False
    assert kinds(harness) == []


def test_a_source_without_a_readable_scope_is_a_problem_with_a_reason(harness):
    harness.commit(ended("a"))
    harness.commit(scope="", readable=False)
    harness.bench.ledger.finish_poll("one", PollReport(ended=NOW + 60, duration=1.0, outcome="partial"))
    harness.bench.publisher.publish()
    problem = next(each for each in harness.reporter.problems() if each.kind == "JobrunSourceDown")
    assert problem.sentence == "No customer or project can be read."


def test_problems_of_the_exporter_itself_have_sentences(harness):
    harness.commit(ended("a"))
    harness.bench.publisher.refused("sources.0.name: is required")
    harness.bench.ledger.error = "disk full"
    problems = harness.reporter.problems()
    assert [problem.kind for problem in problems] == [
        "JobrunExporterStateNotCommitting",
        "JobrunExporterConfigReloadFailed",
    ]
    assert "disk full" in problems[0].sentence
    assert "sources.0.name: is required" in problems[1].sentence
    assert {problem.severity for problem in problems} == {"critical", "warning"}


def test_a_job_is_not_overdue_while_it_has_an_active_run(harness):
    add_job_of_each_status(started(harness))
    harness.commit(running("now", NOW + HOUR, job="overdue"))
    assert ("JobrunOverdue", "overdue") not in kinds(harness)


def test_every_alert_has_a_problem_on_the_page_or_a_reason_why_not():
    named = set(re.findall(r'"(Jobrun\w+)"', Path(problems_module.__file__).read_text()))
    assert named == KINDS.keys() - NOT_ON_PAGE.keys()


def test_jobs_that_fail_together_are_a_problem_of_their_project(harness):
    started(harness)
    harness.bench.clock.advance(HOUR)
    harness.commit(
        *(ended(f"f{number}", NOW + 3500 + number, "failure", job=f"job{number}") for number in range(10)),
        through=NOW + HOUR,
    )
    (together,) = [problem for problem in harness.reporter.problems() if problem.kind == "JobrunManyJobsFailing"]
    assert (together.severity, together.source, together.job_name) == ("critical", "one", "")
    assert together.sentence == "10 jobs have been failing since about the same time."


def test_a_run_that_succeeded_but_took_too_long_and_a_failure_that_is_over_are_problems(harness):
    harness.configure(objectives=(objective_of(match={"job_name": "long"}, duration_budget="10s"),))
    started(harness)
    harness.commit(ended("l", NOW + 60, job="long", length=30))
    harness.commit(ended("f", NOW + 10, "failure", job="well"), ended("s", NOW + 20, job="well"))
    assert {("JobrunRunSlow", "long"), ("JobrunFailureRecovered", "well")} <= set(kinds(harness))
