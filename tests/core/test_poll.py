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
from tests.core.poll_harness import INTERVAL, STARTED, PollHarness, open_run, scope
from tests.core.test_store_contract import row

BATCH, ANOTHER = Batch(scope="one"), Batch(scope="two")


@pytest.fixture
def harness():
    return PollHarness()


def stats(delays=(), *, results=(), **dispositions):
    found = BatchStats(delays=list(delays))
    found.dispositions.update({Disposition(word): count for word, count in dispositions.items()})
    found.results.update(results)
    return found


def waiting(harness, *run_ids):
    harness.ledger.queue = [row(run_id) for run_id in run_ids]


def later(harness, seconds):
    return lambda _view: harness.clock.passes(seconds)


def test_a_poll_commits_each_batch_before_the_next_is_made_and_then_serves_it(harness):
    assert harness.poll(later(harness, 7), BATCH, later(harness, 7), ANOTHER) == "success"
    assert harness.events == [
        ("ledger.start_poll", "s", STARTED),
        ("ledger.commit", "s", BATCH, harness.poll_context(7)),
        ("publisher.publish_throttled",),
        ("source.continues", BATCH),
        ("ledger.commit", "s", ANOTHER, harness.poll_context(14)),
        ("publisher.publish_throttled",),
        ("source.continues", ANOTHER),
        ("ledger.expire_open_runs", "s", harness.poll_context(14), 0.0),
        ("ledger.complete_poll", "s", harness.poll_context(14), False),
        ("ledger.record_up", "s", True),
        ("publisher.publish",),
        ("ledger.pending_steps", "s", STARTED + 14, 100),
        ("ledger.finish_poll", "s"),
        ("publisher.publish",),
    ]
    assert (harness.report.outcome, harness.report.ended, harness.report.duration) == ("success", STARTED + 14, 14.0)


def test_a_poll_that_cannot_be_written_has_failed(harness):
    harness.ledger.refused["finish_poll"] = StateError("disk full")
    assert harness.poll(Batch()) == "error"
    assert harness.result("ledger.finish_poll", "ledger.keep_poll") == [
        ("ledger.finish_poll", "s"),
        ("ledger.keep_poll", "s"),
    ]
    assert (harness.status.up, harness.report.reason, harness.report.reasons) == (False, "state", ["state"])


def test_what_the_api_reports_of_its_limit_and_of_the_credential_is_recorded_with_the_poll(harness):
    harness.poller._requests.set_limits(100, 7, STARTED + 60)
    harness.poller._requests.set_credential_expiry(STARTED + 3600)
    harness.poll(BATCH)
    assert harness.status.rate_limit == RateLimit(limit=100, remaining=7, reset=STARTED + 60)
    assert harness.status.credential_expiry == STARTED + 3600


def test_polls_that_came_due_meanwhile_are_recorded_while_a_long_one_runs_and_at_its_end(harness):
    with capture_logs() as lines:
        harness.poller.skip()
        harness.poller.skip()
    assert [line["event"] for line in lines] == ["poll skipped: previous poll still running"]
    harness.poller.report_skipped_polls()
    assert harness.result("ledger.skip_polls", "publisher.publish_throttled") == [
        ("ledger.skip_polls", "s", 2),
        ("publisher.publish_throttled",),
    ]
    with capture_logs() as lines:
        harness.poll(lambda _view: harness.poller.skip())
        harness.poll()
    assert [line.get("skipped") for line in lines if line["event"] == "poll finished"] == [3, None]
    assert [report.skipped for report in harness.ledger.reports] == [1, 0]


def test_every_poll_ends_with_a_log_line_of_what_it_did():
    with capture_logs() as lines:
        harness = PollHarness()
        harness.ledger.stats = stats(results=[Result.SUCCESS], new=2, duplicate=3)
        harness.ledger.given_up = stats(results=[Result.UNKNOWN], updated=1, late=0)
        harness.ledger.open = [open_run("a")]
        waiting(harness, "x", "y")
        harness.poll(later(harness, 0.12345), BATCH, ANOTHER)
    counts = {"new": 4, "updated": 1, "duplicate": 6}
    assert lines == [
        {
            "event": "poll finished",
            "log_level": "info",
            "source": "s",
            "outcome": "success",
            "duration": 0.123,
            "batches": 2,
            "completed": 3,
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
def test_an_error_ends_the_poll_and_is_reported_with_its_reason(error, reason, failure):
    with capture_logs() as lines:
        harness = PollHarness()
        waiting(harness, "x")
        assert harness.poll(BATCH, later(harness, 3), error, ANOTHER) == "error"
    assert len(harness.result("ledger.commit")) == 1
    assert harness.result("ledger.complete_poll", "ledger.pending_steps", "ledger.record_up") == []
    assert bool(harness.result("ledger.expire_open_runs")) is (reason != "state")
    report, status = harness.report, harness.status
    assert (report.outcome, report.ended, report.duration, report.reasons) == ("error", STARTED + 3, 3.0, [reason])
    assert (status.up, status.last_success) == (False, None)
    assert len(harness.result("publisher.publish")) == 1
    assert [(line["log_level"], line["outcome"], line["reason"], line["error"]) for line in lines] == [
        ("warning", "error", reason, failure)
    ]
    assert (status.failures, status.outcome, status.reason, status.error) == (
        1,
        "error",
        reason,
        failure,
    )


def test_an_internal_error_is_shown_by_its_class_only():
    with capture_logs() as lines:
        harness = PollHarness()
        assert harness.poll(ValueError("a customer's data")) == "error"
    assert (harness.status.reason, harness.status.error) == ("internal", "ValueError")
    assert harness.report.reasons == ["internal"]
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("poll failed", "error"),
        ("poll finished", "warning"),
    ]
    assert lines[0]["exc_info"]


def test_a_source_is_down_while_a_readable_scope_does_not_answer_although_others_do():
    harness = PollHarness()
    parts = {"customer 7": ServerStatusError("GET /r: 500")}
    for scope_failed, up in ((True, False), (False, True)):
        assert harness.poll(BATCH, PartialError(parts, scope_failed=scope_failed)) == "partial"
        assert harness.status.up is up
        assert harness.status.last_success == harness.report.ended
        assert harness.result("ledger.record_up") == [("ledger.record_up", "s", up)]
        harness.events.clear()


def test_unreadable_parts_do_not_affect_others():
    parts = {"recipe 12": ServerStatusError("GET /r: 500"), "run x": SchemaError("odd"), "run y": SchemaError("odd")}
    with capture_logs() as lines:
        harness = PollHarness()
        waiting(harness, "x")
        assert harness.poll(BATCH, PartialError(parts)) == "partial"
    assert harness.result("ledger.expire_open_runs", "ledger.complete_poll", "ledger.commit_steps") == [
        ("ledger.expire_open_runs", "s", harness.poll_context(), 900.0),
        ("ledger.complete_poll", "s", harness.poll_context(), False),
        ("ledger.commit_steps", "s", "x", (), harness.poll_context()),
    ]
    assert harness.report.reasons == ["http_5xx", "schema", "schema"]
    assert harness.result("ledger.record_up") == [("ledger.record_up", "s", True)]
    assert harness.status.up
    assert harness.poller.failures == 0
    error = "recipe 12: GET /r: 500 (and 2 more parts failed)"
    assert harness.status.error == error
    assert [(line["outcome"], line["reason"], line["error"]) for line in lines] == [("partial", "http_5xx", error)]


def test_a_source_without_any_readable_part_is_down(harness):
    harness.ledger.state.scopes.update(one=scope(readable=False), two=scope(readable=False))
    assert harness.poll(BATCH) == "partial"
    assert (harness.status.up, harness.status.last_success) == (False, None)


@pytest.mark.parametrize("error", [ServerStatusError("500"), NetworkError("broken"), KeyError("a customer's data")])
def test_an_unreadable_source_still_expires_runs_and_fetches_steps(harness, error):
    waiting(harness, "x")
    assert harness.poll(BATCH, error) == "error"
    assert len(harness.result("ledger.expire_open_runs")) == len(harness.result("ledger.commit_steps")) == 1
    assert harness.result("ledger.complete_poll") == []
    assert harness.status.last_success is None


def test_one_failed_step_fetch_is_enough_while_the_source_cannot_be_read(harness):
    waiting(harness, *"abc")
    harness.source.answers = {run_id: NetworkError("broken") for run_id in "abc"}
    harness.poll(NetworkError("broken"))
    assert [event[1] for event in harness.result("source.steps")] == ["a"]


def test_steps_that_raise_an_internal_error_do_not_block_others(harness):
    waiting(harness, *"ab")
    answered = harness.source.steps
    harness.source.steps = lambda run: int("odd") if run.run_id == "a" else answered(run)
    assert harness.poll() == "success"
    assert [event[2] for event in harness.result("ledger.record_steps_error", "ledger.commit_steps")] == ["a", "b"]
    assert harness.report.reasons == ["internal"]


def test_the_queue_of_steps_shrinks_although_every_poll_is_late(harness):
    waiting(harness, *(f"r{number}" for number in range(20)))
    harness.source.when_requested = lambda: harness.clock.passes(0.4 * INTERVAL)
    lengths = []
    for number in range(4):
        harness.poll(later(harness, 2.2 * INTERVAL), BATCH)
        harness.ledger.queue += [row(f"new-{number}-{each}") for each in range(3)]
        lengths.append(len(harness.ledger.queue))
    assert lengths == [17, 14, 11, 8]


def test_failures_are_counted_until_a_poll_succeeds(harness):
    poller = harness.poller
    assert (poller.failures, harness.status.outcome) == (0, "")
    counted = []
    for script in ([NetworkError("broken")], [NetworkError("broken")], [], [NetworkError("broken")]):
        harness.poll(*script)
        counted.append((poller.failures, harness.status.error, harness.status.reason))
    broken = "broken", "network"
    assert counted == [(1, *broken), (2, *broken), (0, "", ""), (1, *broken)]


def test_a_shutdown_during_a_poll_records_no_poll_and_is_raised_again(harness):
    with pytest.raises(Stopped):
        harness.poll(BATCH, Stopped())
    assert harness.result("ledger.finish_poll", "ledger.record_up", "publisher.publish", "ledger.complete_poll") == []
    assert not harness.poller.polled


def test_a_poll_whose_scopes_are_all_readable_is_a_success(harness):
    harness.ledger.state.scopes.update(one=scope(watermark=5.0), two=scope())
    assert harness.poll(BATCH) == "success"


def test_an_unreadable_scope_makes_the_poll_partial_and_not_failed(harness):
    harness.ledger.state.scopes.update(one=scope(watermark=5.0), two=scope(readable=False))
    assert harness.poll(BATCH) == "partial"
    assert (harness.report.outcome, harness.report.reasons) == ("partial", [])
    assert harness.status.last_success == STARTED
    assert (harness.poller.failures, harness.status.outcome) == (0, "partial")


@pytest.mark.parametrize(
    ("interval", "last", "due"),
    [
        (None, STARTED - 1e6, False),
        (600.0, None, False),
        (600.0, STARTED - 599, False),
        (600.0, STARTED - 600, True),
        (600.0, STARTED + 600, True),  # written by a clock that was ahead
    ],
)
def test_a_poll_sweeps_when_the_interval_has_passed(interval, last, due):
    harness = PollHarness(sweep_interval=interval)
    harness.ledger.state.last_sweep = last
    seen = []
    harness.poll(lambda view: seen.append(view.sweep_due), BATCH)
    assert seen == [due]
    assert harness.result("ledger.complete_poll") == [("ledger.complete_poll", "s", harness.poll_context(), due)]


def test_a_source_sees_only_its_own_part_of_the_state():
    harness = PollHarness(include=("night.*",))
    harness.ledger.state.baseline = 77.0
    seen = []

    def read_again(view):
        seen.append((view.now, view.first_poll, view.includes("nightly"), view.includes("daily"), view.out_of_time()))

    harness.clock.passes(5)
    harness.poll(read_again, later(harness, 0.8 * INTERVAL), read_again, later(harness, 1), read_again)
    after = STARTED + 5 + 0.8 * INTERVAL
    assert seen == [
        (STARTED + 5, 77.0, True, False, False),
        (after, 77.0, True, False, False),
        (after + 1, 77.0, True, False, True),
    ]


def test_a_batch_fetched_by_a_wrong_clock_is_fetched_again(harness):
    harness.clock.skew = 2.0
    seen = []
    harness.source.script = [
        [lambda _view: skew(harness, 7.0), BATCH, ANOTHER],
        [lambda view: seen.append(view.now), ANOTHER],
    ]
    assert harness.poller.poll() == "success"
    assert seen == [STARTED + 7]
    assert harness.result("ledger.start_poll", "ledger.shift_baseline", "ledger.commit", "ledger.complete_poll") == [
        ("ledger.start_poll", "s", STARTED + 2),
        ("ledger.shift_baseline", "s", 5.0, STARTED + 7),
        ("ledger.commit", "s", ANOTHER, harness.poll_context(7, started=7)),
        ("ledger.complete_poll", "s", harness.poll_context(7, started=7), False),
    ]


def skew(harness, seconds):
    harness.clock.skew = seconds


def test_a_clock_that_becomes_wrong_again_does_not_prevent_commits(harness):
    harness.source.script = [
        [lambda _view: skew(harness, -10.0), BATCH],
        [BATCH, lambda _view: skew(harness, -30.0), ANOTHER],
    ]
    harness.poller.poll()
    assert [event[:3] for event in harness.result("ledger.commit", "ledger.shift_baseline")] == [
        ("ledger.shift_baseline", "s", -10.0),
        ("ledger.commit", "s", BATCH),
        ("ledger.shift_baseline", "s", -20.0),
        ("ledger.commit", "s", ANOTHER),
    ]


def test_a_clock_skew_of_the_first_poll_that_proves_wrong_is_undone(harness):
    harness.source.script = [[lambda _view: skew(harness, 900.0), BATCH], [lambda _view: skew(harness, 0.0), BATCH]]
    harness.poller.poll()
    shifts = [event[2] for event in harness.result("ledger.shift_baseline")]
    assert shifts == [900.0, -900.0]
    assert harness.result("ledger.expire_open_runs")[0][-1] == 900.0


def test_a_small_clock_skew_is_ignored(harness):
    harness.poll(BATCH, lambda _view: skew(harness, 4.9), ANOTHER)
    assert harness.result("ledger.shift_baseline") == []
    assert [event[2] for event in harness.result("ledger.commit")] == [BATCH, ANOTHER]


def test_a_failed_response_that_shows_clock_skew_corrects_the_baseline_too(harness):
    harness.poll(lambda _view: skew(harness, 60.0), AuthError("refused"))
    assert harness.result("ledger.shift_baseline") == [("ledger.shift_baseline", "s", 60.0, STARTED + 60)]


def test_a_state_that_cannot_be_written_does_not_hide_the_first_error(harness):
    harness.ledger.refused = {"shift_baseline": StateError("disk full")}
    assert harness.poll(lambda _view: skew(harness, 60.0), AuthError("refused")) == "error"
    assert harness.status.reason == "auth"
    assert harness.result("publisher.publish") == [("publisher.publish",)]


def test_the_first_poll_is_served_at_once_and_later_ones_shortly_after(harness):
    assert harness.poller.polled is False
    harness.source.when_requested = lambda: harness.events.append(("polled", harness.poller.polled))
    served = []
    for _ in range(2):
        waiting(harness, "x")
        harness.poll()
        served.append(
            [event[0] for event in harness.result("publisher.publish", "publisher.publish_throttled", "source.steps")]
        )
        assert harness.result("polled") == [("polled", True)]
    assert served == [
        ["publisher.publish", "source.steps", "publisher.publish_throttled", "publisher.publish"],
        ["publisher.publish_throttled", "source.steps", "publisher.publish_throttled", "publisher.publish"],
    ]


def test_a_failed_first_poll_counts_as_a_first_poll(harness):
    harness.poll(AuthError("refused"))
    assert harness.poller.polled
    harness.poll()
    assert harness.result("publisher.publish", "publisher.publish_throttled") == [
        ("publisher.publish_throttled",),
        ("publisher.publish",),
    ]


def test_steps_are_fetched_in_batches_until_none_wait(harness):
    ids = [f"r{number}" for number in range(150)]
    waiting(harness, *ids)
    harness.source.answers = {"r0": ("a step",)}
    harness.source.when_requested = lambda: harness.clock.passes(0.125)
    harness.poll()
    committed = harness.result("ledger.commit_steps")
    assert [event[2] for event in committed] == ids
    assert committed[:2] == [
        ("ledger.commit_steps", "s", "r0", ("a step",), harness.poll_context()),
        ("ledger.commit_steps", "s", "r1", (), harness.poll_context(0.125)),
    ]
    assert [event[3] for event in harness.result("ledger.pending_steps")] == [100, 100, 100]
    assert harness.result("publisher.publish_throttled") == [("publisher.publish_throttled",)] * 2


def test_a_poll_without_steps_leaves_them_to_the_next(harness):
    waiting(harness, "x")
    assert harness.poll(BATCH, steps=False) == "success"
    assert harness.result("source.steps", "ledger.pending_steps") == []


@pytest.mark.parametrize(("read", "fetched"), [(0.0, 5), (INTERVAL, 7)])
def test_steps_are_fetched_until_the_time_is_up_which_doubles_for_a_late_poll(harness, read, fetched):
    waiting(harness, *"abcdefgh")
    harness.source.when_requested = lambda: harness.clock.passes(0.16 * INTERVAL + 0.01)
    assert harness.poll(later(harness, read), BATCH) == "success"
    assert len(harness.result("ledger.commit_steps")) == fetched


def test_steps_done_exactly_in_time_are_followed_by_another_batch(harness):
    waiting(harness, *"abc")
    harness.source.when_requested = lambda: harness.clock.passes(0.8 * INTERVAL)
    harness.poll()
    assert len(harness.result("ledger.commit_steps")) == 2


def test_steps_wait_for_the_next_poll_after_three_consecutive_errors():
    with capture_logs() as lines:
        harness = PollHarness()
        waiting(harness, *"abcdefgh")
        harness.source.answers = {run_id: SchemaError("odd") for run_id in "abdefg"}
        assert harness.poll() == "success"
    assert [event[1] for event in harness.result("source.steps")] == list("abcdef")
    assert harness.result("ledger.record_steps_error")[0] == (
        "ledger.record_steps_error",
        "s",
        "a",
        harness.poll_context(),
    )
    assert [event[2] for event in harness.result("ledger.record_steps_error")] == list("abdef")
    assert harness.report.reasons == ["schema"] * 5
    assert lines[0] == {
        "event": "fetching steps failed",
        "log_level": "warning",
        "source": "s",
        "reason": "schema",
        "error": "odd",
    }
    assert lines[-1]["steps"] == 6


def test_steps_that_the_api_does_not_have_are_not_an_error(harness):
    waiting(harness, *"abcde")
    harness.source.answers = {run_id: NotFoundError("404", 404) for run_id in "abcd"}
    assert harness.poll() == "success"
    missing = [("ledger.record_missing_steps", "s", run_id, harness.poll_context()) for run_id in "abcd"]
    assert harness.result("ledger.record_missing_steps") == missing
    assert [event[2] for event in harness.result("ledger.commit_steps")] == ["e"]
    assert harness.report.reasons == []


@pytest.mark.parametrize(("error", "reason"), [(AuthError("no"), "auth"), (RateLimitedError("no"), "rate_limited")])
def test_a_rate_limiting_api_gets_no_requests_for_steps(harness, error, reason):
    waiting(harness, *"abc")
    harness.source.answers = {"b": error}
    assert harness.poll(BATCH) == "error"
    assert harness.result("ledger.commit_steps", "ledger.record_steps_error") == [
        ("ledger.commit_steps", "s", "a", (), harness.poll_context()),
        ("ledger.record_steps_error", "s", "b", harness.poll_context()),
    ]
    assert harness.report.reasons == [reason]
    assert harness.result("ledger.record_up") == [("ledger.record_up", "s", True)]
    assert harness.status.up is False


def test_a_source_that_needs_longer_to_read_everything_once_lengthens_the_reported_interval():
    harness = PollHarness(poll_interval=10.0)
    harness.poll()
    assert harness.ledger.reports[-1].interval == 42.0


def test_steps_are_requested_for_the_runs_of_the_rows(harness):
    requested = []

    def noted(run):
        requested.append(run)
        return ()

    harness.source.steps = noted
    waiting(harness, "x")
    expected = [msgspec.structs.replace(each.run) for each in harness.ledger.queue]
    harness.poll()
    assert requested == expected


@pytest.mark.parametrize(("interval", "longest"), [(10.0, 300.0), (100.0, 1000.0)])
def test_a_very_long_first_poll_is_reported_as_a_source_that_is_down(interval, longest):
    harness = PollHarness(poll_interval=interval)
    seen = []

    def goes_on(_view):
        for seconds in (longest, 1.0, 1.0):
            harness.clock.passes(seconds)
            harness.poller.report_long_first_poll()
            seen.append((harness.poller.polled, harness.result("ledger.record_up")))

    harness.poller.report_long_first_poll()
    assert harness.poll(goes_on) == "success"
    down = [("ledger.record_up", "s", False)]
    assert seen == [(False, []), (True, down), (True, down)]
    assert harness.result("ledger.record_up")[-1] == ("ledger.record_up", "s", True)


def test_a_long_later_poll_is_not_reported_as_a_first_one():
    harness = PollHarness()
    harness.poll()

    def goes_on(_view):
        harness.clock.passes(5000.0)
        harness.poller.report_long_first_poll()

    harness.poll(goes_on)
    assert ("ledger.record_up", "s", False) not in harness.result("ledger.record_up")
