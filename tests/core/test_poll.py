import msgspec
import pytest
from structlog.testing import capture_logs

from exporter.client.budget import Stopped
from exporter.counting.records import RateLimit
from exporter.errors import (
    AuthError,
    NetworkError,
    NotFoundError,
    PartialError,
    RateLimitedError,
    SchemaError,
    ServerStatusError,
    StateError,
)
from exporter.ledger.batch_writer import BatchStats
from exporter.model import Batch, Disposition, Result
from tests.core.poll_harness import INTERVAL, STARTED, Stage, open_run, scope
from tests.core.test_store_contract import row

READING, ANOTHER = Batch(scope="one"), Batch(scope="two")


@pytest.fixture
def stage():
    return Stage()


def stats(delays=(), *, results=(), **dispositions):
    found = BatchStats(delays=list(delays))
    found.dispositions.update({Disposition(word): count for word, count in dispositions.items()})
    found.results.update(results)
    return found


def waiting(stage, *run_ids):
    stage.ledger.queue = [row(run_id) for run_id in run_ids]


def later(stage, seconds):
    return lambda _view: stage.clock.passes(seconds)


def test_a_poll_commits_each_batch_before_the_next_is_made_and_then_serves_it(stage):
    assert stage.poll(later(stage, 7), READING, later(stage, 7), ANOTHER) == "success"
    assert stage.events == [
        ("ledger.begin", "s", STARTED),
        ("ledger.commit", "s", READING, stage.poll_context(7)),
        ("source.committed", READING),
        ("pages.publish_throttled",),
        ("ledger.commit", "s", ANOTHER, stage.poll_context(14)),
        ("source.committed", ANOTHER),
        ("pages.publish_throttled",),
        ("ledger.give_up", "s", stage.poll_context(14)),
        ("ledger.finish", "s", stage.poll_context(14), False),
        ("ledger.mark", "s", True),
        ("pages.publish",),
        ("ledger.pending_steps", "s", STARTED + 14, 100),
        ("ledger.finish_poll", "s"),
        ("pages.publish",),
    ]
    assert (stage.report.outcome, stage.report.ended, stage.report.duration) == ("success", STARTED + 14, 14.0)


def test_what_the_api_reports_of_its_limit_and_of_the_credential_is_recorded_with_the_poll(stage):
    stage.poller._requests.limits(100, 7, STARTED + 60)
    stage.poller._requests.credential_expiry(STARTED + 3600)
    stage.poll(READING)
    assert stage.status.rate_limit == RateLimit(limit=100, remaining=7, reset=STARTED + 60)
    assert stage.status.credential_expiry == STARTED + 3600


def test_polls_that_came_due_meanwhile_are_recorded_while_a_long_one_runs_and_at_its_end(stage):
    stage.poller.skip()
    stage.poller.skip()
    stage.poller.report_skipped_polls()
    assert stage.result("ledger.skip_polls", "pages.publish_throttled") == [
        ("ledger.skip_polls", "s", 2),
        ("pages.publish_throttled",),
    ]
    stage.poll(lambda _view: stage.poller.skip())
    assert stage.report.skipped == 1


def test_every_poll_ends_with_a_log_line_that_says_what_it_did():
    with capture_logs() as lines:
        stage = Stage()
        stage.ledger.stats = stats(results=[Result.SUCCESS], new=2, duplicate=3)
        stage.ledger.given_up = stats(results=[Result.UNKNOWN], updated=1, late=0)
        stage.ledger.open = [open_run("a")]
        waiting(stage, "x", "y")
        stage.poll(later(stage, 0.12345), READING, ANOTHER)
    counts = {"new": 4, "updated": 1, "duplicate": 6}
    assert lines == [
        {
            "event": "poll",
            "log_level": "info",
            "source": "s",
            "outcome": "success",
            "seconds": 0.123,
            "batches": 2,
            "endings": 3,
            "steps": 2,
            "open": 1,
            **counts,
        }
    ]


@pytest.mark.parametrize(
    ("error", "reason", "failure"),
    [
        (AuthError("refused"), "auth", "refused"),
        (RateLimitedError("slow down"), "rate_limited", "slow down"),
        (StateError("disk full"), "state", "disk full"),
    ],
)
def test_an_error_ends_the_poll_and_is_told_with_its_reason(error, reason, failure):
    with capture_logs() as lines:
        stage = Stage()
        waiting(stage, "x")
        assert stage.poll(READING, later(stage, 3), error, ANOTHER) == "error"
    assert len(stage.result("ledger.commit")) == 1
    assert stage.result("ledger.finish", "ledger.pending_steps", "ledger.mark") == []
    assert bool(stage.result("ledger.give_up")) is (reason != "state")
    report, status = stage.report, stage.status
    assert (report.outcome, report.ended, report.duration, report.reasons) == ("error", STARTED + 3, 3.0, [reason])
    assert (status.up, status.last_success) == (False, None)
    assert len(stage.result("pages.publish")) == 1
    assert [(line["log_level"], line["outcome"], line["reason"], line["error"]) for line in lines] == [
        ("warning", "error", reason, failure)
    ]
    assert (status.failures, status.outcome, status.reason, status.error) == (
        1,
        "error",
        reason,
        failure,
    )


def test_a_fault_of_ours_is_told_by_its_kind_alone_where_people_look():
    with capture_logs() as lines:
        stage = Stage()
        assert stage.poll(ValueError("a customer's data")) == "error"
    assert (stage.status.reason, stage.status.error) == ("internal", "ValueError")
    assert stage.report.reasons == ["internal"]
    assert [(line["event"], line["log_level"]) for line in lines] == [("poll failed", "error"), ("poll", "warning")]
    assert lines[0]["exc_info"]


def test_parts_that_cannot_be_read_cost_nothing_else():
    parts = {"recipe 12": ServerStatusError("GET /r: 500"), "run x": SchemaError("odd"), "run y": SchemaError("odd")}
    with capture_logs() as lines:
        stage = Stage()
        waiting(stage, "x")
        assert stage.poll(READING, PartialError(parts)) == "partial"
    assert stage.result("ledger.give_up", "ledger.finish", "ledger.commit_steps") == [
        ("ledger.give_up", "s", stage.poll_context()),
        ("ledger.finish", "s", stage.poll_context(), False),
        ("ledger.commit_steps", "s", "x", (), stage.poll_context()),
    ]
    assert stage.report.reasons == ["http_5xx", "schema", "schema"]
    assert stage.result("ledger.mark") == [("ledger.mark", "s", True)]
    assert stage.status.up
    assert stage.poller.failures == 0
    error = "recipe 12: GET /r: 500 (and 2 more of its parts)"
    assert stage.status.error == error
    assert [(line["outcome"], line["reason"], line["error"]) for line in lines] == [("partial", "http_5xx", error)]


def test_a_source_of_which_nothing_can_be_read_is_not_up(stage):
    stage.ledger.state.scopes.update(one=scope(readable=False), two=scope(readable=False))
    assert stage.poll(READING) == "partial"
    assert (stage.status.up, stage.status.last_success) == (False, None)


@pytest.mark.parametrize("error", [ServerStatusError("500"), NetworkError("broken"), KeyError("a customer's data")])
def test_a_source_that_cannot_be_read_still_expires_runs_and_asks_for_steps(stage, error):
    waiting(stage, "x")
    assert stage.poll(READING, error) == "error"
    assert len(stage.result("ledger.give_up")) == len(stage.result("ledger.commit_steps")) == 1
    assert stage.result("ledger.finish") == []
    assert stage.status.last_success is None


def test_one_failed_step_fetch_is_enough_while_the_source_cannot_be_read(stage):
    waiting(stage, *"abc")
    stage.source.answers = {run_id: NetworkError("broken") for run_id in "abc"}
    stage.poll(NetworkError("broken"))
    assert [event[1] for event in stage.result("source.steps")] == ["a"]


def test_steps_that_we_cannot_digest_keep_no_others_waiting(stage):
    waiting(stage, *"ab")
    answered = stage.source.steps
    stage.source.steps = lambda run: {}["odd"] if run.run_id == "a" else answered(run)
    assert stage.poll() == "success"
    assert [event[2] for event in stage.result("ledger.steps_failed", "ledger.commit_steps")] == ["a", "b"]
    assert stage.report.reasons == ["internal"]


def test_the_queue_of_steps_falls_although_every_poll_is_late(stage):
    waiting(stage, *(f"r{number}" for number in range(20)))
    stage.source.when_asked = lambda: stage.clock.passes(0.4 * INTERVAL)
    lengths = []
    for number in range(4):
        stage.poll(later(stage, 2.2 * INTERVAL), READING)
        stage.ledger.queue += [row(f"new-{number}-{each}") for each in range(3)]
        lengths.append(len(stage.ledger.queue))
    assert lengths == [17, 14, 11, 8]


def test_failures_are_counted_until_a_poll_goes_well(stage):
    poller = stage.poller
    assert (poller.failures, stage.status.outcome) == (0, "")
    counted = []
    for script in ([NetworkError("broken")], [NetworkError("broken")], [], [NetworkError("broken")]):
        stage.poll(*script)
        counted.append((poller.failures, stage.status.error, stage.status.reason))
    broken = "broken", "network"
    assert counted == [(1, *broken), (2, *broken), (0, "", ""), (1, *broken)]


def test_a_shutdown_tells_nothing_and_is_passed_on(stage):
    with pytest.raises(Stopped):
        stage.poll(READING, Stopped())
    assert stage.result("ledger.finish_poll", "ledger.mark", "pages.publish", "ledger.finish") == []
    assert not stage.poller.polled


def test_a_poll_of_scopes_that_may_all_be_read_is_a_success(stage):
    stage.ledger.state.scopes.update(one=scope(watermark=5.0), two=scope())
    assert stage.poll(READING) == "success"


def test_a_scope_that_may_not_be_read_makes_the_poll_partial_which_is_no_failure(stage):
    stage.ledger.state.scopes.update(one=scope(watermark=5.0), two=scope(readable=False))
    assert stage.poll(READING) == "partial"
    assert (stage.report.outcome, stage.report.reasons) == ("partial", [])
    assert stage.status.last_success == STARTED
    assert (stage.poller.failures, stage.status.outcome) == (0, "partial")


@pytest.mark.parametrize(
    ("interval", "last", "due"),
    [
        (None, STARTED - 1e6, False),
        (600.0, None, False),
        (600.0, STARTED - 599, False),
        (600.0, STARTED - 600, True),
        (600.0, STARTED + 600, True),  # by a clock that was ahead
    ],
)
def test_when_a_poll_sweeps(interval, last, due):
    stage = Stage(sweep_interval=interval)
    stage.ledger.state.last_sweep = last
    seen = []
    stage.poll(lambda view: seen.append(view.sweep_due), READING)
    assert seen == [due]
    assert stage.result("ledger.finish") == [("ledger.finish", "s", stage.poll_context(), due)]


def test_what_a_source_sees_of_the_state():
    stage = Stage(include=("night.*",))
    stage.ledger.state.baseline = 77.0
    seen = []

    def look(view):
        seen.append((view.now, view.first_poll, view.wanted("nightly"), view.wanted("daily"), view.out_of_time()))

    stage.clock.passes(5)
    stage.poll(look, later(stage, 0.8 * INTERVAL), look, later(stage, 1), look)
    after = STARTED + 5 + 0.8 * INTERVAL
    assert seen == [
        (STARTED + 5, 77.0, True, False, False),
        (after, 77.0, True, False, False),
        (after + 1, 77.0, True, False, True),
    ]


def test_what_was_read_by_a_wrong_clock_is_read_anew(stage):
    stage.clock.skew = 2.0
    seen = []
    stage.source.script = [
        [lambda _view: skew(stage, 7.0), READING, ANOTHER],
        [lambda view: seen.append(view.now), ANOTHER],
    ]
    assert stage.poller.poll() == "success"
    assert seen == [STARTED + 7]
    assert stage.result("ledger.begin", "ledger.shift_baseline", "ledger.commit", "ledger.finish") == [
        ("ledger.begin", "s", STARTED + 2),
        ("ledger.shift_baseline", "s", 5.0, STARTED + 7),
        ("ledger.commit", "s", ANOTHER, stage.poll_context(7, started=7)),
        ("ledger.finish", "s", stage.poll_context(7, started=7), False),
    ]


def skew(stage, seconds):
    stage.clock.skew = seconds


def test_a_clock_that_goes_wrong_again_does_not_keep_readings_from_being_committed(stage):
    stage.source.script = [
        [lambda _view: skew(stage, -10.0), READING],
        [READING, lambda _view: skew(stage, -30.0), ANOTHER],
    ]
    stage.poller.poll()
    assert [event[:3] for event in stage.result("ledger.commit", "ledger.shift_baseline")] == [
        ("ledger.shift_baseline", "s", -10.0),
        ("ledger.commit", "s", READING),
        ("ledger.shift_baseline", "s", -20.0),
        ("ledger.commit", "s", ANOTHER),
    ]


def test_a_clock_that_is_a_little_wrong_is_nothing(stage):
    stage.poll(READING, lambda _view: skew(stage, 4.9), ANOTHER)
    assert stage.result("ledger.shift_baseline") == []
    assert [event[2] for event in stage.result("ledger.commit")] == [READING, ANOTHER]


def test_a_clock_found_wrong_by_an_answer_that_failed_corrects_the_baseline_too(stage):
    stage.poll(lambda _view: skew(stage, 60.0), AuthError("refused"))
    assert stage.result("ledger.shift_baseline") == [("ledger.shift_baseline", "s", 60.0, STARTED + 60)]


def test_a_state_that_cannot_be_written_does_not_hide_the_first_error(stage):
    stage.ledger.refused = {"shift_baseline": StateError("disk full")}
    assert stage.poll(lambda _view: skew(stage, 60.0), AuthError("refused")) == "error"
    assert stage.status.reason == "auth"
    assert stage.result("pages.publish") == [("pages.publish",)]


def test_the_first_poll_is_served_at_once_and_later_ones_soon(stage):
    assert stage.poller.polled is False
    stage.source.when_asked = lambda: stage.events.append(("polled", stage.poller.polled))
    served = []
    for _ in range(2):
        waiting(stage, "x")
        stage.poll()
        served.append([event[0] for event in stage.result("pages.publish", "pages.publish_throttled", "source.steps")])
        assert stage.result("polled") == [("polled", True)]
    assert served == [
        ["pages.publish", "source.steps", "pages.publish_throttled", "pages.publish"],
        ["pages.publish_throttled", "source.steps", "pages.publish_throttled", "pages.publish"],
    ]


def test_a_first_poll_that_fails_counts_as_one(stage):
    stage.poll(AuthError("refused"))
    assert stage.poller.polled
    stage.poll()
    assert stage.result("pages.publish", "pages.publish_throttled") == [
        ("pages.publish_throttled",),
        ("pages.publish",),
    ]


def test_steps_are_fetched_in_batches_until_none_wait(stage):
    ids = [f"r{number}" for number in range(150)]
    waiting(stage, *ids)
    stage.source.answers = {"r0": ("a step",)}
    stage.source.when_asked = lambda: stage.clock.passes(0.125)
    stage.poll()
    committed = stage.result("ledger.commit_steps")
    assert [event[2] for event in committed] == ids
    assert committed[:2] == [
        ("ledger.commit_steps", "s", "r0", ("a step",), stage.poll_context()),
        ("ledger.commit_steps", "s", "r1", (), stage.poll_context(0.125)),
    ]
    assert [event[3] for event in stage.result("ledger.pending_steps")] == [100, 100, 100]
    assert stage.result("pages.publish_throttled") == [("pages.publish_throttled",)] * 2


def test_a_poll_without_steps_leaves_them_to_the_next(stage):
    waiting(stage, "x")
    assert stage.poll(READING, steps=False) == "success"
    assert stage.result("source.steps", "ledger.pending_steps") == []


@pytest.mark.parametrize(("read", "fetched"), [(0.0, 5), (INTERVAL, 7)])
def test_steps_stop_when_the_time_is_used_up_of_which_a_late_poll_takes_as_much_again(stage, read, fetched):
    waiting(stage, *"abcdefgh")
    stage.source.when_asked = lambda: stage.clock.passes(0.16 * INTERVAL + 0.01)
    assert stage.poll(later(stage, read), READING) == "success"
    assert len(stage.result("ledger.commit_steps")) == fetched


def test_steps_that_are_done_exactly_in_time_are_followed_by_another(stage):
    waiting(stage, *"abc")
    stage.source.when_asked = lambda: stage.clock.passes(0.8 * INTERVAL)
    stage.poll()
    assert len(stage.result("ledger.commit_steps")) == 2


def test_steps_wait_for_the_next_poll_after_three_faults_in_a_row():
    with capture_logs() as lines:
        stage = Stage()
        waiting(stage, *"abcdefgh")
        stage.source.answers = {run_id: SchemaError("odd") for run_id in "abdefg"}
        assert stage.poll() == "success"
    assert [event[1] for event in stage.result("source.steps")] == list("abcdef")
    assert stage.result("ledger.steps_failed")[0] == ("ledger.steps_failed", "s", "a", stage.poll_context())
    assert [event[2] for event in stage.result("ledger.steps_failed")] == list("abdef")
    assert stage.report.reasons == ["schema"] * 5
    assert lines[0] == {
        "event": "steps.failed",
        "log_level": "warning",
        "source": "s",
        "reason": "schema",
        "error": "odd",
    }
    assert lines[-1]["steps"] == 6


def test_steps_that_the_api_does_not_have_are_no_fault(stage):
    waiting(stage, *"abcde")
    stage.source.answers = {run_id: NotFoundError("404", 404) for run_id in "abcd"}
    assert stage.poll() == "success"
    missing = [("ledger.steps_missing", "s", run_id, stage.poll_context()) for run_id in "abcd"]
    assert stage.result("ledger.steps_missing") == missing
    assert [event[2] for event in stage.result("ledger.commit_steps")] == ["e"]
    assert stage.report.reasons == []


@pytest.mark.parametrize(("error", "reason"), [(AuthError("no"), "auth"), (RateLimitedError("no"), "rate_limited")])
def test_an_api_that_wants_no_more_requests_gets_none_for_steps(stage, error, reason):
    waiting(stage, *"abc")
    stage.source.answers = {"b": error}
    assert stage.poll(READING) == "error"
    assert stage.result("ledger.commit_steps", "ledger.steps_failed") == [
        ("ledger.commit_steps", "s", "a", (), stage.poll_context()),
        ("ledger.steps_failed", "s", "b", stage.poll_context()),
    ]
    assert stage.report.reasons == [reason]
    assert stage.result("ledger.mark") == [("ledger.mark", "s", True)]
    assert stage.status.up is False


def test_a_round_is_as_long_as_the_source_says(stage):
    assert stage.poller.round_seconds() == 42.0


def test_the_runs_whose_steps_are_asked_for_are_those_of_the_rows(stage):
    asked = []
    stage.source.steps = lambda run: asked.append(run) or ()
    waiting(stage, "x")
    expected = [msgspec.structs.replace(each.known.run) for each in stage.ledger.queue]
    stage.poll()
    assert asked == expected


@pytest.mark.parametrize(("interval", "longest"), [(10.0, 300.0), (100.0, 1000.0)])
def test_a_first_poll_that_goes_on_for_very_long_is_reported_as_a_source_that_is_down(interval, longest):
    stage = Stage(poll_interval=interval)
    seen = []

    def goes_on(_view):
        for seconds in (longest, 1.0, 1.0):
            stage.clock.passes(seconds)
            stage.poller.report_long_first_poll()
            seen.append((stage.poller.polled, stage.result("ledger.mark")))

    stage.poller.report_long_first_poll()
    assert stage.poll(goes_on) == "success"
    down = [("ledger.mark", "s", False)]
    assert seen == [(False, []), (True, down), (True, down)]
    assert stage.result("ledger.mark")[-1] == ("ledger.mark", "s", True)


def test_a_later_poll_that_goes_on_for_long_is_not_reported_as_a_first_one():
    stage = Stage()
    stage.poll()

    def goes_on(_view):
        stage.clock.passes(5000.0)
        stage.poller.report_long_first_poll()

    stage.poll(goes_on)
    assert ("ledger.mark", "s", False) not in stage.result("ledger.mark")
