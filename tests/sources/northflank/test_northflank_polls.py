import json

import pytest

from exporter.ledger.housekeeping import prune
from exporter.model import Result
from exporter.simulators.disruptions import Drop, Duplicate, Garbage, Shuffle, Status
from exporter.simulators.northflank_rows import NorthflankShape
from exporter.simulators.world import MARK, SimJob

NOW = 1_700_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SUCCESS, FAILURE, UNKNOWN = Result.SUCCESS, Result.FAILURE, Result.UNKNOWN


def ended_runs(world, job, count, *, until, every=MINUTE, **fields):
    """Return this many runs of a job, the last one starting at `until`."""
    return [
        world.run(job, start=until - number * every, duration=30.0, **fields).run_id
        for number in reversed(range(count))
    ]


# --- requests


def test_the_first_poll_lists_jobs_and_then_requests_each_job_once(exporter, world, requested):
    for name in "abc":
        world.run(name, start=NOW - HOUR)
    assert exporter.poll() == "success"
    assert requested() == ["projects", "jobs", "runs", "runs", "runs"]


def test_a_normal_job_is_requested_once_every_few_polls(exporter, world, requested):
    ended_runs(world, "a", 500, until=NOW - HOUR)
    exporter.live(2 * MINUTE)
    assert requested().count("runs") <= 6, "5 pages once, to look for open runs"
    exporter.live(9 * MINUTE)
    assert requested().count("runs") <= 4


def test_idle_jobs_and_lists_are_requested_every_tenth_poll(exporter, world, requested):
    world.run("a", start=NOW - 3 * DAY)
    exporter.poll()
    requested()
    exporter.live(60 * MINUTE)
    requests = requested()
    assert 6 <= requests.count("runs") <= 7
    assert requests.count("jobs") <= 7
    assert requests.count("projects") <= 7


def test_a_suspended_job_is_slow_and_not_enabled(exporter, world, requested):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", schedule="* * * * *", enabled=False))
    world.run("a", start=NOW - MINUTE, duration=10.0)
    exporter.live(30 * MINUTE)
    assert requested().count("runs") <= 5
    assert exporter.job("prod/a").job.enabled is False


@pytest.mark.parametrize(("jobs", "requests"), [(1, 6), (60, 60)])
def test_a_schedule_is_read_every_tenth_poll_or_once_per_hour_if_that_would_cost_too_much(
    exporter, world, requested, jobs, requests
):
    for number in range(jobs):
        world.add_job(SimJob(job_id=f"prod/{number}", name=str(number), project="prod", schedule="0 3 * * *"))
    exporter.live(70 * MINUTE)
    requested()
    exporter.live(HOUR)
    assert requested().count("job") == pytest.approx(requests, abs=requests // 6 + 1)


def test_the_schedule_of_a_job_is_read_again_every_ten_minutes(exporter, world, requested):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", schedule="0 3 * * *"))
    world.add_job(SimJob(job_id="prod/b", name="b", project="prod"))
    exporter.live(9 * MINUTE)
    assert requested().count("job") == 1
    assert exporter.job("prod/a").job.schedule == "0 3 * * *"
    assert exporter.job("prod/a").job.enabled is True
    assert exporter.job("prod/b").job.enabled is None
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", schedule="0 4 * * *"))
    exporter.live(10 * MINUTE)
    assert exporter.job("prod/a").job.schedule == "0 4 * * *"
    assert requested().count("job") == 1


def test_an_excluded_job_is_not_requested(exporting, world):
    exporter = exporting(jobs={"exclude": ["b"]})
    world.run("a", start=NOW - HOUR)
    world.run("b", start=NOW - HOUR)
    exporter.live(5 * MINUTE)
    assert {job.name for job in exporter.ledger.jobs_of(exporter.name)} == {"a"}
    assert exporter.watermark() is not None


def test_a_team_has_its_own_paths(exporting, simulator, world):
    simulator.stop()
    simulator.team_id = "blue"
    world.run("a", start=NOW - HOUR)
    with simulator:
        assert exporting().poll() == "success"
        assert {line.path.split("/projects")[0] for line in simulator.log.lines()} == {"/v1/teams/blue"}


# --- endings


def test_each_completion_after_the_first_poll_counts_once(exporter, world):
    world.run("a", start=NOW - HOUR)
    open_run = world.run("a", start=NOW - MINUTE, duration=5 * MINUTE, result="failure")
    exporter.poll()
    assert exporter.counted() == {}
    assert exporter.open() == {open_run.run_id}
    world.run("a", start=NOW + 6 * MINUTE, duration=30.0)
    exporter.live(20 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 1, ("prod/a", FAILURE): 1}
    assert exporter.open() == set()


def test_retries_are_counted_from_failed_attempts(exporter, world):
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    world.run("a", start=NOW + 1, duration=30.0, attempts=3)
    world.run("a", start=NOW + 2, duration=30.0, attempts=2, result="failure")
    exporter.live(20 * MINUTE)
    counts = exporter.job("prod/a").counts
    assert counts["jobrun_run_retries_total"][""].value == 3
    assert counts["jobrun_runs_recovered_total"][""].value == 1


@pytest.mark.parametrize("look", ["absent", "null", "empty"])
def test_a_completion_without_an_end_counts_once_and_has_no_duration(exporter, world, option, look):
    option(rows=NorthflankShape(no_end=look, endless_share=1.0))
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    world.run("a", start=NOW + 1, duration=30.0)
    exporter.live(20 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 1}
    assert exporter.job("prod/a").distributions == {}
    assert exporter.job("prod/a").last_run.end is None


def test_an_unmapped_status_is_reported_and_the_run_completes_as_unknown(exporter, world, option):
    option(rows=NorthflankShape(words={"cancellation": "ABORTED"}))
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    world.run("a", start=NOW + 1, duration=30.0, result="cancellation")
    exporter.live(20 * MINUTE)
    assert exporter.counted() == {("prod/a", UNKNOWN): 1}
    assert exporter.ledger.source(exporter.name).counts["jobrun_source_unmapped_status_total"]["ABORTED"].value == 1


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
def test_no_completion_is_lost_in_any_order_of_the_rows(exporter, world, option, order):
    option(order=order)
    ended_runs(world, "a", 250, until=NOW - HOUR)
    exporter.live(10 * MINUTE)
    ended_runs(world, "a", 300, until=NOW + 20 * MINUTE, every=2.0)
    exporter.live(30 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 300}


def test_pages_are_read_only_until_one_has_a_known_run(exporter, world, requested, clock):
    ended_runs(world, "a", 500, until=NOW - HOUR)
    exporter.live(2 * MINUTE)
    requested()
    ended_runs(world, "a", 250, until=NOW + HOUR, every=10.0)
    clock.set(NOW + 2 * HOUR)
    exporter.poll()
    assert requested().count("runs") == 3
    assert exporter.counted() == {("prod/a", SUCCESS): 250}


def test_the_first_poll_reads_until_a_page_has_only_older_completed_runs(exporter, world, requested):
    ended_runs(world, "a", 150, until=NOW - HOUR)
    late = world.run("a", start=NOW - 50 * HOUR, duration=50 * HOUR + 300.0)
    ended_runs(world, "a", 100, until=NOW - 1, every=1.0, job_id="prod/b", result=None)
    exporter.poll()
    assert late.run_id not in exporter.open()
    assert len(exporter.open()) == 100
    assert requested().count("runs") == 2


def test_an_open_run_behind_many_completed_ones_is_found_after_the_first_poll(exporter, world, requested):
    late = world.run("a", start=NOW - 20 * HOUR, duration=20 * HOUR + 400.0)
    ended_runs(world, "a", 450, until=NOW - HOUR)
    exporter.poll()
    assert exporter.watermark() is not None, "the watermark does not wait for that"
    exporter.live(3 * MINUTE)
    assert exporter.open() == {late.run_id}
    exporter.live(20 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 1}
    exporter.start()
    requested()
    exporter.live(10 * MINUTE)
    assert requested().count("runs") < 10, "it is looked for once"


def test_runs_that_started_more_than_a_day_before_the_first_poll_are_not_searched(exporter, world, requested):
    for number in range(600):
        world.run("a", start=NOW - HOUR - number * 10 * MINUTE, duration=60.0)
    exporter.live(9 * MINUTE)
    # 24 hours are on two pages. The others are polls of an idle job.
    assert requested().count("runs") <= 5


def test_the_search_for_open_runs_survives_a_kill(exporter, world):
    late = world.run("a", start=NOW - 20 * HOUR, duration=40 * HOUR)
    ended_runs(world, "a", 900, until=NOW - HOUR)
    exporter.poll()
    exporter.start()
    exporter.live(10 * MINUTE)
    assert exporter.open() == {late.run_id}


def test_an_interrupted_walk_continues_in_the_next_poll_and_is_committed_completely(exporter, world, requested, clock):
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    ended_runs(world, "a", 4000, until=NOW + 10 * HOUR, every=5.0)
    clock.set(NOW + 11 * HOUR)
    requested()
    exporter.poll()
    assert 5 < requested().count("runs") < 40
    assert exporter.counted() == {}
    exporter.live(5 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 4000}


def test_an_open_run_on_no_page_is_followed_by_id(exporter, world, requested):
    old = world.run("a", start=NOW - HOUR, duration=HOUR + 20 * MINUTE)
    exporter.poll()
    ended_runs(world, "a", 200, until=NOW + 5 * MINUTE, every=1.0)
    exporter.live(15 * MINUTE)
    assert old.run_id in exporter.open()
    assert "run" in requested()
    exporter.live(10 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 201}


def test_time_beyond_the_lookback_after_a_long_downtime_is_reported(exporting, world, clock):
    exporter = exporting(lookback="1d")
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    ended_runs(world, "a", 900, until=NOW + 100 * HOUR, every=600.0)
    clock.set(NOW + 101 * HOUR)
    exporter.live(3 * MINUTE)
    lost = exporter.source_count("jobrun_source_unobserved_seconds_total")
    lost += exporter.ledger.source(exporter.name).pending_unobserved
    assert lost > 60 * HOUR
    assert exporter.counted()["prod/a", SUCCESS] >= 144


def test_pruned_runs_do_not_count_again(exporter, world, clock):
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    ended_runs(world, "a", 20, until=NOW + HOUR)
    exporter.live(2 * HOUR)
    assert exporter.counted() == {("prod/a", SUCCESS): 20}
    clock.set(NOW + 40 * DAY)
    exporter.live(20 * MINUTE)
    prune(exporter.ledger, clock(), 30 * DAY)
    exporter.start()
    world.run("a", start=clock() + 1)
    exporter.live(20 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 21}


@pytest.mark.parametrize("lie", [Duplicate(), Shuffle(), Drop(share=0.3, endpoint="runs"), Drop(endpoint="jobs")])
def test_wrong_rows_change_no_sum(exporter, simulator, world, lie):
    ended_runs(world, "a", 30, until=NOW - HOUR)
    exporter.poll()
    simulator.disruptions.set([lie])
    ended_runs(world, "a", 40, until=NOW + 30 * MINUTE, every=40.0)
    exporter.live(45 * MINUTE)
    simulator.disruptions.clear()
    exporter.live(10 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 40}


def test_after_a_long_downtime_open_runs_are_requested_before_they_expire(exporting, world, clock, requested):
    exporter = exporting(max_run_age="2d")
    world.run("a", start=NOW - HOUR, duration=3 * HOUR)
    exporter.poll()
    ended_runs(world, "a", 150, until=NOW + 20 * MINUTE, every=5.0)
    exporter.live(25 * MINUTE)
    assert len(exporter.open()) == 1
    clock.set(NOW + 3 * DAY)
    exporter.start()
    requested()
    exporter.live(10 * MINUTE)
    assert requested().count("run") == 1, "newer runs have taken its place on the page"
    assert exporter.counted() == {("prod/a", SUCCESS): 151}


def test_a_poll_without_budget_expires_nothing(exporting, world, option, clock):
    exporter = exporting(max_run_age="2d", poll_interval="10m")
    world.run("a", start=NOW - HOUR, duration=3 * HOUR)
    exporter.live(10 * MINUTE)
    clock.set(NOW + 3 * DAY)
    option(requests_per_hour=7)
    exporter.live(10 * MINUTE)
    option()
    exporter.live(2 * HOUR)
    assert exporter.counted() == {("prod/a", SUCCESS): 1}


# --- watermark


def test_the_watermark_is_set_once_every_job_was_read_and_never_exceeds_that(exporter, world, clock):
    for number in range(30):
        world.run(f"job{number}", start=NOW - HOUR)
    exporter.poll()
    assert exporter.watermark() is None
    exporter.live(3 * MINUTE)
    assert NOW - MINUTE <= exporter.watermark() <= clock() - MINUTE


def crowded_out(world):
    """Add a run that ends 2 minutes after NOW, when 100 newer runs have pushed it off its page."""
    world.run("a", start=NOW - 3 * HOUR, duration=3 * HOUR + 2 * MINUTE)
    ended_runs(world, "a", 99, until=NOW - HOUR)
    world.run("a", start=NOW + MINUTE, duration=10.0)


def test_a_run_that_left_the_pages_is_counted_before_the_watermark_passes_its_end(exporting, world, clock):
    exporter = exporting(poll_interval="10m")
    crowded_out(world)
    exporter.live(10 * MINUTE)
    exporter.poll()
    assert exporter.counted() == {("prod/a", SUCCESS): 2}
    assert exporter.watermark() >= clock() - 2 * MINUTE


def test_the_watermark_waits_for_an_open_run_on_no_page_until_it_is_requested(exporting, world, requested, clock):
    exporter = exporting(poll_interval="10m")
    crowded_out(world)
    exporter.live(10 * MINUTE)
    commit = exporter.ledger.commit

    def slowly(*arguments):
        clock.advance(4 * MINUTE)
        return commit(*arguments)

    exporter.ledger.commit = slowly
    requested()
    exporter.poll()
    assert requested() == ["projects", "jobs", "runs"]
    assert exporter.counted() == {("prod/a", SUCCESS): 1}
    assert exporter.watermark() < NOW + 2 * MINUTE
    exporter.ledger.commit = commit
    exporter.poll()
    assert exporter.counted() == {("prod/a", SUCCESS): 2}
    assert exporter.watermark() > NOW + 2 * MINUTE


def test_after_a_restart_the_watermark_waits_until_every_job_was_read_again(exporter, world, clock):
    for number in range(40):
        world.run(f"job{number}", start=NOW - HOUR)
    exporter.live(6 * MINUTE)
    stopped = clock()
    clock.advance(HOUR)
    exporter.start()
    exporter.poll()
    assert exporter.watermark() < stopped
    exporter.live(6 * MINUTE)
    assert exporter.watermark() > stopped + 50 * MINUTE


def test_completions_of_jobs_unread_when_the_process_died_count_too(exporter, world):
    for number in range(40):
        world.run(f"job{number}", start=NOW - HOUR, duration=HOUR + 30.0)
    exporter.poll()
    read = {job.job.job_id for job in exporter.ledger.jobs_of(exporter.name) if job.last_run}
    exporter.start()
    exporter.live(6 * MINUTE)
    assert len(read) < 20
    assert sum(exporter.counted().values()) == 40


def test_schedules_survive_a_restart_without_another_request(exporter, world, requested):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", schedule="0 3 * * *"))
    exporter.live(5 * MINUTE)
    exporter.start()
    requested()
    exporter.poll()
    assert "job" not in requested()
    assert exporter.job("prod/a").job.schedule == "0 3 * * *"


def test_an_unreadable_job_holds_the_watermark_and_affects_no_other_job(exporter, world, simulator, clock):
    for name in "ab":
        world.run(name, start=NOW - HOUR)
    exporter.live(3 * MINUTE)
    before = exporter.watermark()
    simulator.disruptions.set([Status(code=500, endpoint="runs", probability=0.5)])
    world.run("a", start=clock() + 1)
    world.run("b", start=clock() + 1)
    outcomes = exporter.live(30 * MINUTE)
    assert set(outcomes) <= {"success", "partial"}
    assert exporter.watermark() >= before
    simulator.disruptions.clear()
    exporter.live(10 * MINUTE)
    assert exporter.counted() == {("prod/a", SUCCESS): 1, ("prod/b", SUCCESS): 1}


@pytest.mark.parametrize("endpoint", ["runs", "jobs"])
def test_a_failed_request_is_repeated_in_the_next_poll_after_all_others(
    exporter, world, simulator, requested, endpoint
):
    world.run("a", start=NOW - HOUR)
    exporter.live(10 * MINUTE)
    simulator.disruptions.add(Status(code=400, endpoint=endpoint))
    exporter.live(10 * MINUTE)
    assert set(exporter.live(5 * MINUTE)) <= {"error", "partial"}
    assert requested()[-2:] == [endpoint, "projects"], "if nothing else responds, this shows whether the API does"
    simulator.disruptions.clear()
    assert exporter.poll() == "success"
    assert (requested().count(endpoint), requested()) == (1, [])


# --- what is not there


@pytest.mark.parametrize("status", [403, 404])
def test_an_unreadable_project_is_skipped_and_the_others_continue(exporter, world, option, status):
    option(unreadable={"secret": status})
    world.run("a", start=NOW - HOUR)
    world.run("b", start=NOW - HOUR, project="secret")
    exporter.poll()
    assert exporter.poll() == "partial"
    assert exporter.watermark() is not None
    option()
    world.run("b", start=NOW + 2 * MINUTE, project="secret", duration=30.0)
    exporter.live(30 * MINUTE)
    assert exporter.poll() == "success"


def test_a_deleted_job_expires_and_no_longer_holds_the_watermark(exporter, world, option, clock):
    world.run("a", start=NOW - HOUR)
    world.run("b", start=NOW - HOUR)
    exporter.poll()
    option(missing_jobs=frozenset({"prod/b"}))
    outcomes = exporter.live(HOUR)
    assert set(outcomes) == {"success"}
    assert exporter.job("prod/b").gone
    assert not exporter.job("prod/a").gone
    assert exporter.watermark() > clock() - 15 * MINUTE


def test_a_project_that_is_no_longer_listed_is_still_read_if_it_responds(exporter, world, option):
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    option(hidden_projects=frozenset({"prod"}))
    exporter.live(90 * MINUTE)
    world.run("a", start=exporter.clock() + 1)
    assert set(exporter.live(20 * MINUTE)) == {"success"}
    assert exporter.counted() == {("prod/a", SUCCESS): 1}


def test_a_project_missing_once_expires_nothing(exporter, world, option):
    world.run("a", start=NOW - HOUR)
    world.run("b", start=NOW - HOUR, project="old")
    exporter.poll()
    option(hidden_projects=frozenset({"old"}), unreadable={"old": 404})
    exporter.live(11 * MINUTE)
    world.run("b", start=exporter.clock() + 1, duration=30.0, project="old")
    exporter.live(2 * MINUTE)
    option()
    assert exporter.live(30 * MINUTE)[-1] == "success"
    assert exporter.counted() == {("old/b", SUCCESS): 1}
    assert exporter.ledger.source(exporter.name).scopes["old"].missing_since is None


def test_a_deleted_project_removes_its_jobs(exporter, world, option, requested):
    world.run("a", start=NOW - HOUR)
    world.run("b", start=NOW - HOUR, project="old")
    exporter.poll()
    option(hidden_projects=frozenset({"old"}), unreadable={"old": 404})
    assert exporter.live(10 * MINUTE)[-1] == "partial"
    assert not exporter.job("old/b").gone
    assert exporter.live(HOUR)[-1] == "success"
    assert exporter.job("old/b").gone
    assert not exporter.job("prod/a").gone
    assert set(exporter.ledger.source(exporter.name).scopes) == {"prod"}
    requested()
    exporter.live(HOUR)
    assert requested().count("jobs") == 6


def test_a_new_job_is_found_and_its_completions_count(exporter, world):
    world.run("a", start=NOW - HOUR)
    exporter.poll()
    world.run("b", start=NOW + MINUTE, duration=30.0)
    exporter.live(30 * MINUTE)
    assert exporter.counted() == {("prod/b", SUCCESS): 1}


# --- errors


def test_a_refused_token_is_an_error_of_the_poll(exporter, simulator):
    simulator.api_token = "another"
    assert exporter.poll() == "error"
    assert "credential was refused" in exporter.poller.status.error


@pytest.mark.parametrize("errors", ["object", "text"])
def test_no_error_shows_text_of_the_response(exporter, world, option, simulator, errors):
    option(errors=errors)
    world.run("a", start=NOW - HOUR)
    for code in (400, 500):
        simulator.disruptions.set([Status(code=code)])
        assert exporter.poll() == "error"
        assert exporter.poller.status.error == f"GET /projects: {code}"


@pytest.mark.parametrize("text", ['{"data": {"runs": [{"identifier": 1}]}}', "{}", '{"data": null}'])
def test_a_response_of_another_shape_is_an_error_of_the_job_and_adds_no_run(exporter, world, simulator, text):
    world.run("a", start=NOW - HOUR)
    simulator.disruptions.set([Garbage(text=text, endpoint="runs")])
    assert exporter.poll() == "partial"
    assert exporter.watermark() is None
    simulator.disruptions.clear()
    exporter.live(5 * MINUTE)
    assert exporter.watermark() is not None


def test_no_request_is_sent_after_the_hourly_limit_until_the_next_hour(exporter, world, option, requested):
    world.run("a", start=NOW - HOUR, result=None)
    option(requests_per_hour=3)
    left = HOUR - NOW % HOUR
    outcomes = exporter.live(left - 15 * MINUTE)
    assert len(requested()) in (2, 3)
    assert "error" in outcomes
    assert "the budget is used up" in exporter.poller.status.error
    exporter.live(14 * MINUTE)
    assert requested() == []
    exporter.live(5 * MINUTE)
    assert requested() != []


def test_customer_data_is_never_in_the_state(exporter, world):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", schedule="* * * * *"))
    world.run("a", start=NOW - 10, duration=30.0, result="failure")
    exporter.live(10 * MINUTE)
    state = exporter.ledger.source(exporter.name)
    assert MARK not in json.dumps(dict(state.checkpoints)) + repr(exporter.ledger.jobs_of(exporter.name))


def test_the_probe_reports_what_it_could_read(exporter, world):
    world.run("a")
    world.run("b", project="other")
    assert exporter.source.probe() == "signed in, 2 projects"


def test_many_projects_and_jobs_are_listed_over_pages(exporter, world, requested):
    for number in range(120):
        world.add_job(SimJob(job_id=f"p{number}/a", name="a", project=f"p{number}"))
    for number in range(120):
        world.add_job(SimJob(job_id=f"p0/job{number}", name=f"job{number}", project="p0"))
    exporter.poll()
    requests = requested()
    assert requests.count("projects") == 2
    assert exporter.source.probe() == "signed in, 120 projects"
    assert len(exporter.ledger.jobs_of(exporter.name)) >= 121
