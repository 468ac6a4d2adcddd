"""A run's page: steps from the vendor or the state, usual durations, and output on demand."""

import threading
from typing import Any

import pytest

from exporter.errors import AuthError, RateLimitedError, TimedOutError
from exporter.model import Result, State, Step
from exporter.queries.errors import QueryError
from exporter.queries.filters import RunQuery
from exporter.queries.vendor import VendorQueries
from exporter.simulators.world import MARK
from exporter.sources.source import StepLog
from tests.contract.harness import NOW
from tests.queries.reports_harness import ended, running


class Vendor:
    """A source whose answers a test sets."""

    def __init__(self, says):
        self.says = says
        self.requested = []
        self.patience = None

    def steps(self, run, *, patience=None):
        self.requested.append(run.run_id)
        self.patience = patience
        return self._say()

    def log(self, run, step, *, patience=None):
        self.requested.append((run.run_id, step))
        self.patience = patience
        return self._say()

    def _say(self):
        says = self.says() if callable(self.says) else self.says
        if isinstance(says, Exception):
            raise says
        return says


def replaced(harness, says):
    harness.bench.assembly.sources["one"].close()
    vendor: Any = Vendor(says)
    harness.bench.assembly.sources["one"] = vendor
    vendor.close = lambda: None
    return vendor


FROM_API = (
    Step(name="load", result=Result.SUCCESS, start=NOW, end=NOW + 3, duration=3.0),
    Step(name="model", result=Result.FAILURE, start=NOW + 3, end=NOW + 5, duration=2.0, dependencies=("load",)),
)


def test_steps_come_from_the_api_with_their_starts_and_dependencies(harness):
    harness.commit(ended("a", result="failure"))
    replaced(harness, FROM_API)
    page = harness.reporter.run("one", "a")
    assert (page.steps_from, page.failed_step, page.steps_error) == ("api", "model", "")
    assert [(step.name, step.start, step.dependencies) for step in page.steps] == [
        ("load", NOW, ()),
        ("model", NOW + 3, ("load",)),
    ]


def test_the_api_is_queried_with_a_short_timeout_and_once_per_minute(harness):
    harness.commit(ended("a"), running("b"))
    vendor = replaced(harness, FROM_API)
    for _ in range(3):
        harness.reporter.run("one", "a")
        harness.reporter.run("one", "b")
    assert vendor.requested == ["a", "b"]
    assert vendor.patience == 3.0
    harness.bench.clock.advance(11)
    harness.reporter.run("one", "a")
    harness.reporter.run("one", "b")
    assert vendor.requested == ["a", "b", "b"]
    harness.bench.clock.advance(50)
    harness.reporter.run("one", "a")
    assert vendor.requested == ["a", "b", "b", "a"]


@pytest.mark.parametrize(
    "error",
    [TimedOutError("slow"), RateLimitedError("full"), AuthError("refused"), lambda: threading.Event().wait(0.6)],
)
def test_without_the_api_steps_come_from_the_state(make, error):
    harness = make(vendors=VendorQueries(steps_seconds=0.2))
    harness.commit(ended("a", result="failure"), steps={"a": FROM_API})
    replaced(harness, error)
    page = harness.reporter.run("one", "a")
    assert page.steps_from == "state"
    assert page.steps_error
    assert [(step.name, step.result, step.duration, step.start) for step in page.steps] == [
        ("load", Result.SUCCESS, 3.0, None),
        ("model", Result.FAILURE, 2.0, None),
    ]
    assert page.failed_step == "model"


def test_without_live_the_api_is_not_queried(harness):
    harness.commit(ended("a"), steps={"a": FROM_API})
    vendor = replaced(harness, FROM_API)
    assert harness.reporter.run("one", "a", live=False).steps_from == "state"
    assert vendor.requested == []


def test_a_vendor_without_steps_is_not_queried_for_them(make):
    harness = make("northflank")
    harness.commit(ended("a"))
    vendor = replaced(harness, ())
    page = harness.reporter.run("one", "a")
    assert (page.steps, page.steps_from, page.steps_error, vendor.requested) == ((), "", "", [])


def test_a_run_comes_with_earlier_runs_and_usual_durations(harness):
    harness.commit(
        *(ended(f"r{n:02}", NOW + n, length=float(n)) for n in range(1, 31)),
        ended("bad", NOW + 31, "failure", length=500.0),
        steps={f"r{n:02}": (Step(name="load", result=Result.SUCCESS, duration=float(n)),) for n in range(1, 31)},
    )
    page = harness.reporter.run("one", "r25", live=False)
    assert [run.run_id for run in page.previous] == [f"r{n:02}" for n in range(24, 4, -1)]
    assert (page.usual.runs, page.usual.p50, page.usual.p95) == (30, 15.5, pytest.approx(28.55))
    assert page.steps[0].usual == 15.5
    assert page.job.recent[-1].run_id == "bad"
    assert [each.run_id for each in page.job.recent] == [*(f"r{n:02}" for n in range(12, 31)), "bad"]


def test_marks_say_how_a_run_is_counted(harness):
    harness.commit(ended("old", NOW - 100), running("open", NOW))
    harness.bench.clock.advance(60)
    harness.commit(ended("good", NOW + 10), through=NOW + 50)
    harness.commit(ended("late", NOW + 20))
    harness.commit(gone=["open"])
    marks = {each: harness.reporter.run("one", each, live=False).run for each in ("old", "good", "late", "open")}
    assert {key: run.mark for key, run in marks.items()} == {
        "old": "baseline",
        "good": "counted",
        "late": "late",
        "open": "given_up",
    }
    assert [run.endings for run in marks.values()] == [0, 1, 1, 1]


def test_links_use_the_external_url(make):
    harness = make(
        web={"external_url": "https://jobs.example.com/x/"}, run_url="https://v.example/{run_id}?p={project}"
    )
    harness.commit(ended("a/b", result="failure"))
    run = harness.reporter.run("one", "a/b", live=False).run
    assert run.url == "https://jobs.example.com/x/runs/one/a%2Fb"
    assert run.vendor_url == "https://v.example/a%2Fb?p="
    info = harness.bench.samples("jobrun_last_failed_run_info", "run_id", "run_url")
    assert info == {("a/b", run.url): 1}
    harness.configure(web={"external_url": ""})
    harness.bench.ledger.everything_changed = True
    assert harness.bench.samples("jobrun_last_failed_run_info", "run_url") == {("https://v.example/a%2Fb?p=",): 1}


@pytest.mark.parametrize(("source", "run_id"), [("one", "none"), ("two", "a"), ("", ""), ("one", "")])
def test_an_unknown_run_is_an_error(harness, source, run_id):
    harness.commit(ended("a"))
    with pytest.raises(QueryError, match="the state has no such run"):
        harness.reporter.run(source, run_id)


def test_a_run_of_a_source_that_a_reload_just_removed_is_shown_from_the_state(make):
    harness = make(web={"logs": True})
    harness.commit(ended("a"))
    reporter = harness.reporter
    reporter.polled_sources = dict
    page = reporter.run("one", "a")
    assert (page.run.run_id, page.steps_error) == ("a", "this source was just removed from the config")
    with pytest.raises(QueryError, match="this source was just removed from the config"):
        reporter.log("one", "a", "")


# --- output ---


def test_output_is_shown_only_if_configured(make):
    harness = make()
    harness.commit(ended("a"))
    vendor = replaced(harness, StepLog(stdout="out", stderr="err"))
    with pytest.raises(QueryError, match=r"web\.logs"):
        harness.reporter.log("one", "a", "load")
    assert vendor.requested == []
    harness.configure(web={"logs": True})
    said = harness.reporter.log("one", "a", "load")
    assert (said.stdout, said.stderr, vendor.requested, vendor.patience) == ("out", "err", [("a", "load")], 3.0)


def test_output_is_fetched_each_time_and_only_its_tail_is_shown(make):
    harness = make(web={"logs": True})
    harness.commit(ended("a"))
    vendor = replaced(harness, StepLog(stdout="x" * 300_000 + "end"))
    for _ in range(2):
        said = harness.reporter.log("one", "a", "load")
    assert len(vendor.requested) == 2
    assert (len(said.stdout), said.stdout[-3:]) == (200_000, "end")


@pytest.mark.parametrize(
    ("failure", "status"),
    [(TimedOutError("slow"), 502), (RateLimitedError("full"), 503), (AuthError("no"), 502)],
)
def test_an_api_that_does_not_respond_is_reported(make, failure, status):
    harness = make(web={"logs": True})
    harness.commit(ended("a"))
    replaced(harness, failure)
    with pytest.raises(QueryError, match=str(failure)) as caught:
        harness.reporter.log("one", "a", "load")
    assert caught.value.status == status


def test_too_many_queries_of_the_apis_are_refused(make):
    harness = make(web={"logs": True})
    harness.commit(ended("a"), *(ended(f"r{n}", NOW + n) for n in range(10)))
    go = threading.Event()
    vendor = replaced(harness, lambda: go.wait(10) and StepLog())
    threads = [threading.Thread(target=harness.reporter.log, args=("one", "a", "x")) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(vendor.requested) < 2:
        pass
    with pytest.raises(QueryError, match="too many requests to the vendors' APIs"):
        harness.reporter.log("one", "a", "x")
    assert not harness.vendors.close()
    go.set()
    for thread in threads:
        thread.join()
    assert harness.vendors.close()


def test_output_of_a_run_is_only_in_the_response(make):
    harness = make(web={"logs": True})
    bench = harness.bench
    bench.poll()
    bench.world.run("dbt", start=NOW + 10, duration=20, steps=["load", "model"], result="failure")
    bench.settle()
    run = harness.reporter.runs(RunQuery()).runs[0]
    page = harness.reporter.run("one", run.run_id)
    assert (page.failed_step, page.steps_from, page.run.state) == ("model", "api", None)
    said = harness.reporter.log("one", run.run_id, page.failed_step)
    assert MARK in said.stdout + said.stderr
    files = b"".join(path.read_bytes() for path in bench.state.parent.iterdir() if path.is_file())
    assert MARK.encode() not in files
    assert MARK not in bench.page() + bench.logs.getvalue()
    assert State.EXECUTING not in {step.state for step in page.steps}
