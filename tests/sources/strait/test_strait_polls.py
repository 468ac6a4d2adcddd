from collections import Counter

import pytest

from exporter.ledger.housekeeping import prune
from exporter.model import Result, Run
from exporter.simulators.control import truth
from exporter.simulators.disruptions import Drop, Duplicate, Late, Shuffle, Stale, Status
from exporter.simulators.strait_rows import StraitShape
from exporter.simulators.world import MARK, SimJob
from exporter.sources.strait.api import WORKFLOW

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@pytest.fixture
def true_endings(world, clock):
    def endings(since: float) -> Counter:
        return Counter(
            (run.project, run.job, str(run.result)) for run in truth(world, clock(), since, clock() + 1).endings
        )

    return endings


def test_completions_after_the_first_poll_are_counted_once(world, clock, exporter):
    world.run("daily", created=clock() - 60, duration=30.0)
    assert exporter.poll() == "success", exporter.disruption
    assert exporter.completed("daily") == {}

    world.run("daily", duration=20.0, result="failure", error_type="client")
    for _ in range(4):
        assert exporter.poll(60) == "success", exporter.disruption

    assert exporter.completed("daily") == {"failure": 1}
    assert exporter.count("jobrun_run_errors_total", "daily", "client") == 1
    assert exporter.open() == {}


@pytest.mark.parametrize("result", list(Result))
def test_every_result_is_counted_under_its_name(world, exporter, result):
    exporter.poll()
    world.run("daily", duration=20.0, result=str(result))
    exporter.poll(60)

    assert exporter.completed("daily") == {str(result): 1}


def test_an_unknown_status_is_reported(world, exporter):
    exporter.poll()
    world.run("daily", duration=20.0, result="unknown")
    for _ in range(3):
        exporter.poll(60)

    assert exporter.of_source("jobrun_source_unmapped_status_total", "evaporated") == 1


def test_runs_completed_before_the_first_poll_change_gauges_only(world, clock, exporter):
    world.run("daily", created=clock() - 600, duration=30.0, result="failure")
    exporter.poll()

    assert exporter.completed("daily") == {}
    assert exporter.job("daily").last_run.result is Result.FAILURE


def test_a_run_active_at_the_first_poll_counts_no_matter_how_old_it_is(world, clock, exporter):
    run = world.run("long", created=clock() - 5 * DAY, result=None)
    exporter.poll()
    assert exporter.open() == {run.run_id: "executing"}

    world.end(run.run_id, clock() + 30, Result.TIMEOUT)
    exporter.poll(60)
    assert exporter.completed("long") == {"timeout": 1}


def test_a_run_is_followed_through_delay_queue_attempts_and_end(world, clock, exporter):
    world.run("daily", run_id="r", start=clock() + 7200, created=clock(), duration=300.0, attempts=3, result="success")
    exporter.poll()
    assert exporter.open() == {"r": "pending"}
    exporter.poll(7260)
    assert exporter.open() == {"r": "executing"}
    exporter.poll(45)
    assert exporter.open() == {"r": "pending"}
    exporter.poll(60)
    assert exporter.open() == {"r": "executing"}
    exporter.poll(300)

    assert exporter.completed("daily") == {"success": 1}
    assert exporter.count("jobrun_run_retries_total", "daily") == 2
    assert exporter.count("jobrun_runs_recovered_total", "daily") == 1
    assert "jobrun_run_queue_duration_seconds" not in exporter.job("daily").distributions


def test_a_future_schedule_does_not_age(world, clock, exporter):
    world.run("yearly", run_id="r", start=clock() + 30 * DAY, created=clock(), duration=60.0)
    exporter.poll()
    for _ in range(3):
        exporter.poll(9 * DAY)
    assert exporter.open() == {"r": "pending"}
    exporter.poll(3 * DAY + 120)

    assert exporter.completed("yearly") == {"success": 1}


def test_waiting_and_duration_are_observed(world, exporter):
    exporter.poll()
    world.run("daily", queue=7.0, duration=20.0)
    exporter.poll(60)

    observed = exporter.job("daily").distributions
    assert observed["jobrun_run_queue_duration_seconds"][""].sum == 7
    assert observed["jobrun_run_duration_seconds"]["success"].sum == 20


def test_a_replayed_dead_letter_completes_a_second_time(world, clock, exporter):
    exporter.poll()
    world.run("daily", run_id="r", duration=20.0, result="failure", attempts=3)
    exporter.poll(60)
    assert exporter.completed("daily") == {"failure": 1}

    world.run("daily", run_id="r", created=clock() + 2 * HOUR, queue=90.0, duration=90.0)
    exporter.poll(2 * HOUR + 30)
    assert exporter.open() == {"r": "pending"}
    exporter.poll(90)
    assert exporter.open() == {"r": "executing"}
    exporter.poll(90)

    assert exporter.completed("daily") == {"failure": 1, "success": 1}
    assert exporter.count("jobrun_run_retries_total", "daily") == 2
    waited = exporter.job("daily").distributions.get("jobrun_run_queue_duration_seconds", {})
    assert not waited, "two hours of being dead are no waiting"


@pytest.mark.parametrize("known", ["counted", "pruned", "baseline"])
def test_a_replay_of_a_very_old_dead_letter_waits_only_since_its_replay(world, clock, exporter, known):
    if known != "baseline":
        exporter.poll()
    world.run("daily", run_id="r", duration=20.0, result="failure", attempts=3)
    clock.advance(60)
    exporter.poll()
    exporter.poll(20 * DAY)
    assert prune(exporter.ledger, clock(), (10 if known == "pruned" else 30) * DAY) == (known == "pruned")

    world.run("daily", run_id="r", created=clock() + 10, queue=180.0, duration=90.0)
    for _ in range(2):
        exporter.poll(60)
        (run,) = exporter.ledger.open_runs("strait")
        assert (run.state, run.origin > clock() - 3 * MINUTE) == ("pending", True)
        exporter.restart()
    exporter.poll(60)
    exporter.poll(5 * MINUTE)

    assert exporter.completed("daily") == {**({} if known == "baseline" else {"failure": 1}), "success": 1}
    assert not exporter.job("daily").distributions.get("jobrun_run_queue_duration_seconds")


def test_a_run_replayed_between_two_polls_is_found_by_the_sweep(world, clock, exporter):
    exporter.poll()
    world.run("daily", run_id="r", duration=20.0, result="failure", attempts=3)
    exporter.poll(60)
    exporter.poll(90 * MINUTE)

    world.run("daily", run_id="r", created=clock() + 10, duration=5.0)
    exporter.poll(60)
    exporter.poll(30 * MINUTE)
    exporter.poll(30 * MINUTE)
    assert exporter.completed("daily") == {"failure": 1, "success": 1}


def test_an_old_dead_letter_replayed_between_two_polls_is_found_by_its_absence_in_the_list(world, clock, exporter):
    exporter.poll()
    for number in range(3):
        world.run("daily", run_id=f"r-{number}", duration=20.0, result="failure", attempts=3)
    exporter.poll(60)
    exporter.poll(3 * DAY)

    world.run("daily", run_id="r-0", created=clock() + 10, duration=5.0)
    world.run("daily", run_id="r-1", created=clock() + 10, duration=5.0, result="failure", attempts=2)
    exporter.poll(60)
    exporter.poll(60)
    assert exporter.completed("daily") == {"failure": 4, "success": 1}
    assert exporter.count("jobrun_run_retries_total", "daily") == 3 * 2 + 1


def test_dead_letters_beyond_the_first_page_are_compared_by_the_sweep(world, clock, exporter):
    for minute in range(250):
        world.run(
            "daily",
            run_id=f"r-{minute}",
            created=clock() - DAY - minute * 60,
            duration=5.0,
            result="failure",
            attempts=2,
        )
    exporter.poll()
    exporter.poll(HOUR)
    world.run("daily", run_id="r-240", created=clock() + 10, duration=5.0)
    for _ in range(10):
        exporter.poll(60)
    assert exporter.completed("daily") == {}
    exporter.poll(HOUR)

    assert exporter.completed("daily") == {"success": 1}


def test_a_dead_letter_from_before_the_first_poll_is_not_the_last_run(world, clock, exporter):
    world.run("daily", created=clock() - 3 * DAY, duration=5.0, result="failure", attempts=2)
    for minute in range(150):
        world.run("other", created=clock() - 2 * DAY + minute * MINUTE, duration=5.0)
    exporter.poll()
    exporter.poll(2 * HOUR)

    assert exporter.job("daily").last_run is None, "later runs that ended before the first poll are unknown"


def test_pruned_dead_letters_are_not_counted_again(world, clock, exporter):
    exporter.poll()
    world.run("daily", run_id="r", duration=20.0, result="failure", attempts=3)
    exporter.poll(60)
    exporter.poll(40 * DAY)
    assert prune(exporter.ledger, clock(), 30 * DAY) == 1
    exporter.restart()
    exporter.poll(60)
    exporter.poll(2 * HOUR)

    assert exporter.completed("daily") == {"failure": 1}


def test_after_downtime_everything_is_caught_up(world, clock, exporter, true_endings):
    exporter.poll()
    begun = clock()
    world.run("long", created=clock() + 1, duration=2 * DAY)
    exporter.poll(60)
    for hour in range(72):
        world.run(
            "hourly", created=clock() + hour * HOUR, duration=90.0, result="failure" if hour % 5 == 0 else "success"
        )
    exporter.restart()
    exporter.poll(3 * DAY)

    assert exporter.all_endings() == true_endings(begun)
    assert clock() - 70 < exporter.ledger.source("strait").watermark() <= clock() - 60


def test_time_beyond_the_lookback_is_reported(clock, make_exporter):
    exporter = make_exporter(lookback="2d", sweep={"window": "1d"})
    exporter.poll()
    exporter.restart()
    exporter.poll(5 * DAY)

    ((start, end),) = exporter.ledger.source("strait").unobserved
    assert clock() - 5 * DAY - 70 < start <= clock() - 5 * DAY - 60
    assert end == clock() - 2 * DAY


def test_the_name_is_the_slug_and_the_schedule_is_exposed(world, exporter):
    world.add_job(SimJob(job_id="j-1", name="nightly", project="p-1", schedule="0 3 * * *", enabled=False))
    exporter.poll()

    job = exporter.job("nightly").job
    assert (job.job_id, job.project, job.schedule, job.timezone, job.enabled) == (
        "j-1",
        "p-1",
        "0 3 * * *",
        "Europe/Berlin",
        False,
    )


def test_a_job_that_appears_with_its_run_is_known_by_name_at_once(world, simulator, exporter):
    exporter.poll()
    world.run("new", duration=5.0)
    simulator.log.clear()
    exporter.poll(60)

    assert exporter.completed("new") == {"success": 1}
    assert len(simulator.log.lines("jobs")) == 1


def test_a_disabled_job_is_noticed_within_ten_polls(world, exporter):
    world.add_job(SimJob(job_id="j-1", name="nightly", enabled=True))
    exporter.poll()
    world.add_job(SimJob(job_id="j-1", name="nightly", enabled=False))
    for _ in range(10):
        exporter.poll(60)

    assert exporter.job("nightly").job.enabled is False


def test_open_runs_on_no_list_are_requested_by_id(world, clock, simulator, exporter):
    world.run("daily", run_id="r", created=clock() - 10 * HOUR, start=clock() - 9 * HOUR, end=clock() + 30)
    for minute in range(100):
        world.run("busy", created=clock() - 3 * HOUR + minute * 60, duration=1.0)
    exporter.poll()
    simulator.log.clear()
    exporter.poll(60)

    assert [line.path for line in simulator.log.lines("run")] == ["/v1/runs/r"]
    assert exporter.completed("daily") == {"success": 1}


@pytest.mark.parametrize("lie", [Drop(share=0.3), Duplicate(share=0.5), Shuffle(), Stale(seconds=45), Late(seconds=40)])
def test_wrong_responses_neither_lose_nor_repeat_a_completion(world, simulator, exporter, true_endings, lie):
    exporter.poll()
    begun = exporter.now
    for minute in range(30):
        result = "failure" if minute % 4 == 0 else "success"
        world.run(
            f"job-{minute % 3}", created=begun + 1 + minute * 60, duration=float(100 + minute * 10), result=result
        )
    simulator.disruptions.set([lie])
    for _ in range(40):
        exporter.poll(60)
    simulator.disruptions.clear()
    exporter.poll(60)
    exporter.poll(60)

    assert exporter.all_endings() == true_endings(begun)


def test_failed_polls_and_restarts_lose_no_run(world, clock, simulator, exporter, true_endings):
    exporter.poll()
    begun = clock()
    for minute in range(20):
        world.run("daily", created=begun + 1 + minute * 60, duration=90.0)
    simulator.disruptions.set([Status(code=400, probability=0.15, endpoint="runs")])
    outcomes = set()
    for number in range(25):
        outcomes.add(exporter.poll(60))
        if number % 7 == 0:
            exporter.restart()
    simulator.disruptions.clear()
    exporter.poll(60)
    exporter.restart()
    exporter.poll(60)

    assert exporter.all_endings() == true_endings(begun)


def test_customer_data_is_not_in_the_state(world, exporter, option, tmp_path):
    option(rows=StraitShape(payload_bytes=1000, traced=True))
    exporter.poll()
    world.run("daily", duration=5.0, result="failure", steps=["load"])
    world.run("other", duration=5.0)
    exporter.poll(60)
    exporter.poll(60)
    exporter.stop()

    assert exporter.completed("other") == {"success": 1}
    for file in tmp_path.iterdir():
        assert MARK.encode() not in file.read_bytes()
    exporter.start()


def test_an_error_text_is_fetched_only_on_request(world, exporter):
    exporter.poll()
    run = world.run("daily", duration=5.0, result="failure")
    flow = world.run("flow", duration=5.0, result="failure", steps=["load"])
    exporter.poll(60)

    shown = Run(run_id=run.run_id, job_id="x")
    workflow = Run(run_id=flow.run_id, job_id=f"{WORKFLOW}x")
    assert MARK in exporter.source.log(shown, "").stderr
    assert MARK in exporter.source.log(workflow, "").stderr
    assert MARK in exporter.source.log(workflow, "load").stderr
