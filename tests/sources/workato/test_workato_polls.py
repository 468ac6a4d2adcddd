import json
import random
import sqlite3

import pytest
from prometheus_client import generate_latest

from exporter.model import Result, Run
from exporter.simulators.disruptions import Drop, Duplicate, Late, LostEnd, Shuffle, Stale, Status
from exporter.simulators.workato_rows import WorkatoShape
from exporter.simulators.world import MARK, SimJob

DAY = 86400.0
RECIPE = SimJob(job_id="prod/a", name="a", project="prod")


def truly_ended(simulator, since):
    """Return the runs that completed after a time, from the ground truth."""
    return [run for run in simulator.truth(since).endings if run.end > since]


# --- what counts ---


def test_completions_before_the_first_poll_are_baseline_and_later_ones_count(world, watch, clock):
    world.run("a", start=clock() - 500, duration=5.0, result="failure")
    watch.poll()
    assert watch.counts() == {}
    assert watch.job("a").last_run.result is Result.FAILURE
    world.run("a", start=clock() + 1, duration=5.0, result="failure")
    world.run("a", start=clock() + 2, duration=5.0)
    watch.poll()
    assert watch.counts() == {"failure": 1, "success": 1}
    assert watch.counts(family="jobrun_run_errors_total") == {"step_failed": 1}


def test_a_job_active_at_the_first_poll_counts_on_whichever_page_it_is(world, watch, clock):
    world.run("a", start=clock() - 7200, end=clock() + 3600)
    for place in range(60):
        world.run("a", start=clock() - 6000 + place, duration=1.0)
    watch.poll()
    assert len(watch.open()) == 1
    watch.poll(after=4000.0)
    assert watch.counts() == {"success": 1}


@pytest.mark.parametrize("after", [0.0, 0.001, 0.4, 0.999])
def test_jobs_within_the_second_of_the_baseline_are_distinguished_by_their_detail(world, watch, clock, after):
    clock.advance(0.25)
    baseline = clock() + 60.0
    world.run("a", start=baseline - 30, end=baseline + after)
    watch.poll()
    watch.poll()
    assert watch.counts() == ({"success": 1} if after else {})


def test_a_job_completed_just_before_the_first_poll_is_baseline(world, watch, clock):
    clock.advance(0.75)
    world.run("a", start=clock() + 30, end=clock() + 59.5)
    watch.poll()
    watch.poll()
    assert watch.counts() == {}
    assert watch.job("a").last_run is not None


def test_a_recipe_created_later_counts_from_its_first_job(world, watch, clock):
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    for place in range(60):
        world.run("new", start=clock() + 1 + place / 2, duration=1.0)
    watch.poll()
    assert watch.counts("new") == {"success": 60}


def test_a_repeat_is_one_retry_and_one_recovery(world, watch, clock):
    world.add_job(RECIPE)
    watch.poll()
    world.run("a", start=clock() + 1, duration=5.0, result="failure")
    world.run("a", start=clock() + 10, duration=5.0, attempts=2)
    world.run("a", start=clock() + 20, duration=5.0, attempts=2, result="failure")
    watch.poll()
    assert watch.counts() == {"failure": 2, "success": 1}
    assert watch.counts(family="jobrun_run_retries_total") == {"": 2}
    assert watch.counts(family="jobrun_runs_recovered_total") == {"": 1}


def test_lists_without_a_status_are_parsed(world, watch, clock, option):
    world.add_job(RECIPE)
    option(rows=WorkatoShape(status=False))
    watch.poll()
    world.run("a", start=clock() + 1, duration=5.0)
    world.run("a", start=clock() + 1, duration=5.0, result="failure")
    world.run("a", start=clock() + 1, duration=500.0)
    watch.poll()
    assert watch.counts() == {"success": 1, "failure": 1}
    assert len(watch.open()) == 1


def test_a_new_status_is_reported_and_the_error_flag_gives_the_result(world, watching, clock, option):
    world.add_job(RECIPE)
    option(rows=WorkatoShape(words={"cancellation": "stopped"}))
    watch, mapping = watching(), watching(status_map={"Stopped": "cancellation"})
    for one in (watch, mapping):
        one.poll()
    world.run("a", start=clock() + 1, duration=5.0, result="cancellation")
    for one in (watch, mapping):
        one.poll()
    assert watch.counts() == {"failure": 1}
    assert watch.ledger.source("w").counts["jobrun_source_unmapped_status_total"]["stopped"].value == 1
    assert mapping.counts() == {"cancellation": 1}


def test_a_failed_job_without_an_end_gets_its_end_once_the_api_shows_it(world, watch, clock, option):
    world.add_job(RECIPE)
    watch.poll()
    option(rows=WorkatoShape(words={"executing": "failed"}))
    end = int(clock()) + 100
    world.run("a", start=end - 60, end=end, result="failure")
    watch.poll()
    assert (watch.counts(), watch.job("a").last_run.end) == ({"failure": 1}, None)
    watch.poll()
    assert (watch.counts(), watch.job("a").last_run.end) == ({"failure": 1}, end)
    updated = watch.ledger.source("w").counts["jobrun_source_runs_fetched_total"]["updated"].value
    watch.poll()
    assert watch.ledger.source("w").counts["jobrun_source_runs_fetched_total"]["updated"].value == updated


@pytest.mark.parametrize(("length", "shown"), [(0.05, 0.0), (0.3, 1.0), (59.4, 60.0)])
def test_durations_are_exact_to_a_second(world, watch, clock, length, shown):
    world.add_job(RECIPE)
    watch.poll()
    begin = clock() + 10.9
    world.run("a", start=begin, duration=length)
    watch.poll(after=100)
    last = watch.job("a").last_run
    assert (last.start, last.end, last.duration) == (int(begin), int(begin) + shown, shown)


def test_a_customer_added_later_counts_from_the_last_list_without_it(world, watch, clock):
    world.run("early", start=clock() - 100, duration=1.0, project="first")
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0)
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0)
    watch.poll(after=1800)
    assert watch.counts() == {"success": 2}


# --- finding everything ---


def test_a_long_absence_is_caught_up_over_several_polls(world, watch, clock):
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    mark = watch.watermark()
    for place in range(2500):
        world.run("a", start=clock() + 1 + place, duration=1.0)
    watch.poll(after=3600.0)
    assert watch.counts() == {"success": 1000}
    assert watch.watermark() == mark
    assert watch.source_count("jobrun_source_truncated_responses_total") == 1
    watch.restart()
    world.run("a", start=clock() + 1, duration=1.0)
    watch.poll(times=2)
    assert watch.counts() == {"success": 2501}
    assert watch.watermark() == clock() - 60
    assert watch.source_count("jobrun_source_unobserved_seconds_total") == 0


def test_time_beyond_the_lookback_is_reported_as_unobserved(world, watch, clock):
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    mark = watch.watermark()
    for day in range(10):
        for place in range(10):
            world.run("a", start=clock() + 3600 + day * DAY + place, duration=1.0)
    watch.poll(after=10 * DAY)
    assert 70 <= watch.counts()["success"] < 100
    watch.restart()
    watch.poll(times=3)
    lost = watch.ledger.source("w").unobserved
    assert lost == [(mark, pytest.approx(mark + 60 + 3 * DAY))]
    assert watch.watermark() == clock() - 60


def test_time_beyond_the_lookback_is_reported_even_during_a_search(world, watch, clock, simulator):
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0)
    simulator.disruptions.set([Drop(endpoint="jobs", share=1.0)])
    watch.poll(after=60)
    simulator.disruptions.clear()
    mark = watch.watermark()
    for day in range(10):
        for place in range(10):
            world.run("a", start=clock() + 3600 + day * DAY + place, duration=1.0)
    watch.poll(after=10 * DAY)
    watch.poll(times=5)
    assert [since for since, _ in watch.ledger.source("w").unobserved] == [mark]
    assert watch.counts()["success"] < 101


def test_an_idle_recipe_loses_nothing_during_any_absence(world, watch, clock):
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    watch.poll(after=20 * DAY)
    assert watch.source_count("jobrun_source_unobserved_seconds_total") == 0
    assert watch.watermark() == clock() - 60


def test_counts_that_fall_hide_nothing(world, watch, clock, option):
    option(counts="kept", retention=2 * DAY)
    for place in range(30):
        world.run("a", start=clock() - 2 * DAY + 120 + place, duration=1.0)
    watch.poll()
    for place in range(3):
        world.run("a", start=clock() + 90 + place, duration=1.0)
    watch.poll(after=120.0)
    watch.poll()
    assert watch.counts() == {"success": 3}
    assert watch.source_count("jobrun_source_truncated_responses_total") == 0


def test_counts_that_lag_behind_cost_only_requests(world, watch, clock, option):
    option(counts_late=90.0)
    world.run("a", start=clock() - 500, duration=1.0)
    watch.poll()
    world.run("a", start=clock() + 1, duration=5.0, result="failure")
    watch.poll(times=5)
    assert watch.counts() == {"failure": 1}


def test_a_job_counted_before_it_is_listed_is_searched_for_again(world, watch, clock, simulator):
    world.run("a", start=clock() - 500, duration=1.0)
    watch.poll()
    mark = watch.watermark()
    world.run("a", start=clock() + 1, duration=5.0, result="failure")
    simulator.disruptions.add(Stale(seconds=100.0, endpoint="jobs"))
    watch.poll()
    assert watch.counts() == {}
    assert watch.watermark() == mark
    watch.poll()
    assert watch.counts() == {"failure": 1}
    assert watch.watermark() == clock() - 60


def test_open_jobs_do_not_replace_jobs_missing_in_a_list(world, watch, clock, simulator, option):
    option(page_size=5)
    for place in range(8):
        world.run("a", start=clock() - 5000 - place, end=clock() + 50_000)
    world.run("a", start=clock() - 4000, duration=1.0)
    watch.poll()
    for place in range(20):
        world.run("a", start=clock() + 1 + place, duration=1.0)
    simulator.disruptions.add(Drop(share=0.5, endpoint="jobs"))
    watch.poll()
    assert watch.counted() < 20
    simulator.disruptions.clear()
    watch.poll()
    assert watch.counts() == {"success": 20}
    assert len(watch.open()) == 8


def test_a_catch_up_over_several_polls_is_not_ended_by_open_jobs(world, watch, clock, option):
    option(page_size=5)
    for place in range(30):
        world.run("a", start=clock() - 5000 - place, end=clock() + 50_000)
    watch.poll()
    for place in range(230):
        begin = clock() + 1 + place
        world.run("a", start=begin, duration=50_000.0 if place % 4 == 0 and place < 40 else 1.0)
    watch.poll(after=3600.0)
    assert watch.counted() < 220
    watch.poll()
    assert watch.counts() == {"success": 220}
    assert watch.watermark() == clock() - 60


def test_a_deep_search_continues_in_the_next_poll(world, watch, clock, simulator, option):
    option(page_size=5)
    world.run("a", start=clock() - 5000, duration=1.0)
    watch.poll()
    for place in range(100):
        world.run("a", start=clock() + 1 + place / 2, duration=1.0)
    simulator.disruptions.add(Late(seconds=5000.0, share=0.1, endpoint="jobs"))
    watch.poll()
    assert watch.counted() < 100
    simulator.disruptions.clear()
    for place in range(300):
        world.run("a", start=clock() + 1 + place, duration=1.0)
    watch.poll(after=600.0, times=2)
    assert watch.counts() == {"success": 400}
    assert watch.watermark() == clock() - 60


def test_a_counted_job_in_no_list_is_searched_four_times_and_then_reported(world, watch, clock, simulator):
    world.run("a", start=clock() - 500, duration=1.0)
    watch.poll()
    world.run("a", start=clock() + 1, duration=5.0)
    simulator.disruptions.add(Stale(seconds=1e6, endpoint="jobs"))
    watch.poll(times=3)
    assert watch.source_count("jobrun_source_truncated_responses_total") == 0
    watch.poll()
    assert watch.source_count("jobrun_source_truncated_responses_total") == 1
    watch.poll()
    assert "jobs" not in watch.requests()


def test_a_deleted_recipe_expires_after_its_open_job_which_is_followed_by_id(world, watch, clock, simulator):
    world.run("a", run_id="slow", start=clock() + 1, duration=300.0)
    world.run("b", start=clock() - 100, duration=1.0)
    watch.poll()
    hidden = simulator.world
    jobs = hidden.jobs
    hidden.jobs = lambda: [job for job in jobs() if job.name != "a"]
    watch.poll()
    assert watch.open() == ["slow"]
    assert watch.requests() == {"recipes": 1, "job": 1}
    watch.poll(after=400.0, times=4)
    assert not watch.job("a").gone  # the next poll must see what its active job does
    hidden.jobs = jobs
    watch.poll(after=400.0)
    assert watch.counts("a") == {"success": 1}
    hidden.jobs = lambda: [job for job in jobs() if job.name != "a"]
    watch.poll(after=400.0, times=4)
    assert watch.job("a").gone
    assert not watch.job("b").gone


def test_an_open_job_that_the_api_no_longer_has_expires(world, watching, clock, option):
    watch = watching(max_run_age="40d", lookback="40d")
    world.run("a", run_id="slow", start=clock() + 1, result=None)
    watch.poll(after=120)
    option(retention=3600.0)
    watch.poll(after=20 * DAY)
    assert watch.open() == ["slow"]
    watch.poll(after=11 * DAY)
    assert watch.open() == []
    assert watch.counts() == {"unknown": 1}


# --- customers ---


def test_customers_are_projects_that_separate_recipes_of_one_name(world, watch, clock):
    for project in ("one", "two"):
        world.add_job(SimJob(job_id=f"{project}/a", name="a", project=project))
    watch.poll()
    world.run("a", project="one", start=clock() + 1, duration=1.0)
    world.run("a", project="two", start=clock() + 1, duration=1.0, result="failure")
    watch.poll()
    assert watch.counts("a", "one") == {"success": 1}
    assert watch.counts("a", "two") == {"failure": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_unreadable_customer_does_not_affect_others(world, watch, clock, option, status):
    for project in ("one", "two", "three"):
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch.poll()
    option(unreadable={"two": status})
    for project in ("one", "two", "three"):
        world.run("a", project=project, start=clock() + 1, duration=1.0)
    assert watch.poll() == "partial"
    assert watch.counted() == 2
    assert watch.watermark() == clock() - 60
    assert watch.poll() == "partial"
    assert watch.requests()["recipes"] == 3
    option()
    assert watch.poll() == "success"
    assert watch.counted() == 3


def test_a_refused_token_is_an_error_of_the_source(world, watch, clock, simulator):
    for project in ("one", "two", "three"):
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch.poll()
    simulator.token = "another"
    assert watch.poll() == "error"
    assert watch.requests() == {"recipes": 1, "users": 1}
    assert all(scope.readable for scope in watch.ledger.source("w").scopes.values())


def test_a_failing_customer_does_not_block_others(world, watch, clock, simulator):
    for project in ("one", "two", "three"):
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch.poll()
    for project in ("one", "two", "three"):
        world.run("a", project=project, start=clock() + 1, duration=1.0)
    simulator.disruptions.add(Status(code=500, endpoint="recipes", count=3))
    assert watch.poll() == "partial"
    assert watch.counted() == 2
    assert watch.poll() == "success"
    assert watch.counted() == 3


def test_after_errors_of_a_few_customers_the_poll_ends(world, watch, clock, simulator):
    for number in range(20):
        world.run("a", project=f"p{number}", start=clock() - 100, duration=1.0)
    watch.poll()
    simulator.disruptions.add(Status(code=503))
    assert watch.poll() == "error"
    assert watch.requests() == {"recipes": 9}


def test_a_removed_customer_does_not_hold_the_watermark_forever(world, watch, clock, simulator):
    for project in ("one", "two"):
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch.poll()
    jobs = world.jobs
    simulator.world.jobs = lambda: [job for job in jobs() if job.project != "two"]
    watch.poll(after=700)
    held = watch.watermark()
    assert held < clock() - 600
    watch.poll(times=25)
    assert watch.watermark() == clock() - 60
    assert watch.job("a", "two").gone
    state = watch.ledger.source("w")
    assert (len(state.scopes), len(state.checkpoints)) == (1, 2)
    watch.poll(times=15)
    assert len(watch.ledger.source("w").checkpoints) == 1


def test_a_customer_missing_in_one_list_does_not_expire(world, watching, clock, simulator):
    for project in ("one", "two"):
        world.run("a", project=project, start=clock() - 100, duration=1.0)
    watch = watching(poll_interval="5m")
    watch.poll()
    jobs = world.jobs
    simulator.world.jobs = lambda: [job for job in jobs() if job.project != "two"]
    watch.poll(after=1800)
    simulator.world.jobs = jobs
    world.run("a", project="two", start=clock() + 1, duration=1.0)
    watch.poll(after=300, times=12)
    assert not watch.job("a", "two").gone
    assert watch.counts("a", "two")["success"] == 1


def test_a_short_budget_continues_where_it_stopped_with_open_jobs_first(world, watching, clock):
    for number in range(12):
        world.run("a", project=f"p{number}", start=clock() - 100, duration=1.0)
    watch = watching(requests_per_minute=6)
    watch.poll(times=8)
    assert watch.watermark() is not None
    world.run("a", project="p7", run_id="slow", start=clock() + 1, duration=3600.0)
    watch.poll(times=4)
    assert watch.open() == ["slow"]
    for _ in range(3):
        watch.poll()
        assert watch.requests()["jobs"] == 1
    assert 60 < watch.source.seconds_per_round() < 600
    assert watch.watermark() > clock() - 600


def test_an_ordinary_workspace_has_no_customers(world, watch, watching, clock, option):
    option(mode="developer")
    watch = watching()
    world.run("a", start=clock() - 100, duration=1.0)
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0, result="failure", steps=["load"])
    watch.poll()
    assert watch.requests() == {"recipes": 1, "jobs": 1, "job": 1}
    assert watch.counts("a", "") == {"failure": 1}
    assert "/" not in watch.job("a", "").job.job_id


def test_a_refusing_workspace_is_an_error(world, watching, clock, option):
    option(mode="developer", forbidden={"jobs"})
    world.run("a", start=clock() - 100, duration=1.0)
    watch = watching()
    assert watch.poll() == "error"
    assert "403" in watch.poller.status.error


def test_a_stopped_recipe_is_reported(world, watch):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod", enabled=False))
    watch.poll()
    job = watch.job("a").job
    assert (job.enabled, job.stop_cause) == (False, "trigger_errors_limit")
    assert job.url.startswith(watch.simulator.url + "/recipes/")


@pytest.mark.parametrize("shape", [{"users_envelope": "items", "recipes_envelope": "result"}, {"numeric_ids": False}])
def test_lists_have_either_envelope_and_ids_may_be_texts(world, watch, clock, option, shape):
    world.add_job(RECIPE)
    option(rows=WorkatoShape(**shape))
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0)
    watch.poll()
    assert watch.counts() == {"success": 1}


# --- lies ---


def lives(world, dice, start, count=40, **fields):
    for _ in range(count):
        begin = start + dice.uniform(0, 3600)
        world.run(
            f"job {dice.randrange(4)}",
            project=f"p{dice.randrange(2)}",
            start=round(begin, 3),
            duration=round(dice.expovariate(1 / 200), 3),
            result=dice.choice(["success", "failure"]),
            steps=["load", "send"],
            **fields,
        )


@pytest.mark.parametrize(
    "lie",
    [
        None,
        Duplicate(),
        Shuffle(endpoint="recipes"),
        Drop(share=0.2, endpoint="jobs", until=1_700_005_000.0),
        Late(seconds=200.0, share=0.3),
        Stale(seconds=45.0, endpoint="jobs"),
        Stale(seconds=45.0, endpoint="recipes"),
        Status(code=500, probability=0.2),
        Status(code=429, probability=0.05),
    ],
    ids=lambda lie: "" if lie is None else type(lie).__name__.lower(),
)
def test_every_completion_is_counted_once(world, watch, simulator, option, lie):
    option(page_size=5)
    dice, clock = random.Random(7), watch.clock  # noqa: S311  # any runs will do, but the same each time
    lives(world, dice, clock() - 3600)
    lives(world, dice, clock())
    watch.poll()
    since = watch.ledger.source("w").baseline
    if lie is not None:
        simulator.disruptions.add(lie)
    for number in range(70):
        watch.poll(after=dice.uniform(20, 100))
        if number % 10 == 0:
            watch.restart()
    simulator.disruptions.clear()
    watch.poll(times=4)
    assert watch.poll() == "success"
    truth = truly_ended(simulator, since)
    assert watch.counted() == len(truth)
    for project in ("p0", "p1"):
        for job in ("job 0", "job 1"):
            mine = [run.result for run in truth if (run.project, run.job) == (project, job)]
            wanted = {str(result): mine.count(result) for result in sorted(set(mine))}
            assert watch.counts(job, project) == wanted
    assert watch.open() == []
    assert watch.watermark() == clock() - 60


def test_a_run_that_never_ends_expires(world, watching, clock, simulator):
    world.add_job(RECIPE)
    watch = watching(max_run_age="1h")
    watch.poll()
    world.run("a", run_id="lost", start=clock() + 1, duration=60.0)
    simulator.disruptions.add(LostEnd(run_ids=("lost",)))
    watch.poll()
    assert watch.open() == ["lost"]
    watch.poll(after=4000.0)
    assert watch.counts() == {"unknown": 1}


def test_the_late_end_of_an_expired_run_is_its_jobs_last_end(world, watching, clock):
    world.add_job(RECIPE)
    watch = watching(max_run_age="1h")
    watch.poll()
    end = clock() + 5001
    world.run("a", start=clock() + 1, duration=5000.0, result="success")
    watch.poll()
    watch.poll(after=4000.0)
    watch.poll(after=2000.0)
    assert watch.counts() == {"unknown": 1}
    assert watch.job("a").last_success == int(end)


# --- customers' data ---


def test_customer_data_is_nowhere(world, watching, caplog, capsys, tmp_path):
    watch = watching(steps="all")
    clock = watch.clock
    world.run("a", start=clock() - 100, duration=1.0, result="failure", steps=["load", "send"])
    watch.poll()
    world.run("a", start=clock() + 1, duration=1.0, result="failure", steps=["load", "send"])
    world.run("a", start=clock() + 1, duration=1000.0)
    watch.poll(times=2)
    assert watch.counts(family="jobrun_steps_total")
    database = sqlite3.connect(tmp_path / "state-0.db")
    output = "\n".join(database.iterdump())
    database.close()
    output += json.dumps(caplog.messages) + "".join(capsys.readouterr()) + generate_latest(watch.registry).decode()
    assert "step_failed" in output
    assert MARK not in output
    assert watch.simulator.token not in output


def test_an_error_text_is_fetched_when_a_user_requests_it(world, watch, clock):
    world.add_job(RECIPE)
    watch.poll()
    run = world.run("a", start=clock() + 1, duration=1.0, result="failure", steps=["load", "send"])
    watch.poll()
    shown = Run(run_id=run.run_id, job_id=watch.job("a").job.job_id)
    assert MARK in watch.source.log(shown, "").stderr
    assert MARK in watch.source.log(shown, "1 connector/send").stderr
    assert watch.source.log(shown, "0 connector/load").stderr == ""


def test_once_reports_what_was_read(world, watch, watching, option):
    world.add_job(SimJob(job_id="prod/a", name="a", project="prod"))
    assert watch.source.probe() == "signed in, 1 managed users on the first page"
    option(mode="developer")
    assert watching().source.probe() == "signed in, 1 recipes"
