"""Series stay bounded and sums right while jobs, steps and error types come and go."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.assembly import counting_rules
from exporter.counting.labels import MAX_LABEL, MAX_URL, OTHER
from exporter.exposition.exposition import LIMITED
from exporter.ledger.housekeeping import expire_jobs
from exporter.ledger.journal import MANY_STEPS
from exporter.ledger.poll_context import PollContext
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Level
from exporter.model import Batch, Job, Result, Run, Step
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, ended, success
from tests.core.page_harness import PageHarness

DAY = 86400.0
STEPS = "jobrun_steps_total"
ERRORS = "jobrun_run_errors_total"
OVERFLOW = "jobrun_exporter_series_overflow_total"
RARE = 3
"""Series of a job that few jobs have, and that are not counted beforehand."""


class BoundedHarness(PageHarness):
    """A page harness with a small `max_series`, and the sums that it must show."""

    def __init__(self, path, max_series, step_histograms="on"):
        self.step_histograms = step_histograms
        self.number = 0
        self.expected = Counter()
        super().__init__(path, zero_first="0s", max_series=max_series)
        self.read()  # the baseline

    def configure(self, **changes):
        super().configure(**changes)
        self.ledger.configure({"s": self.rules}, counting_rules(self.config), self.step_histograms)

    def end(self, job, result=Result.SUCCESS, steps=(), error_type="", **fields):
        """Complete one more run of a job."""
        self.number += 1
        failed = result is Result.FAILURE
        self.read(
            ended(f"r{self.number}", self.now - 1, job_id=job, result=result, error_type=error_type if failed else ""),
            steps={f"r{self.number}": [Step(name=name, result=result, duration=7.0) for name in steps]},
            **fields,
        )
        self.expected[RUNS] += 1
        self.expected[f"{DURATIONS}_count"] += 1
        self.expected[STEPS] += len(steps)
        self.expected["jobrun_step_duration_seconds_count"] += len(steps) if self.ledger.counting.step_histograms else 0
        self.expected[ERRORS] += bool(failed and error_type)

    def page(self):
        """Return all samples that are served: name and labels → value."""
        self.publisher.publish()
        page: Any = self.exposition.page
        text = bytes(page.text).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def sums(self, page):
        return {name: sum(value for (each, _), value in page.items() if each == name) for name in self.expected}

    def labels(self, page):
        """Return the jobs, steps and error types with series, without `__other__`."""
        wanted = {RUNS: ("job_name",), STEPS: ("job_name", "step_name"), ERRORS: ("job_name", "error_type")}
        named = {(name, *(dict(labels)[label] for label in wanted[name])) for name, labels in page if name in wanted}
        return {each for each in named if OTHER not in each}

    def expire(self):
        """Let 90 days pass, so that jobs expire and their series end."""
        before = self.page()
        self.now += 91 * DAY
        self.read()  # ages end at the watermark
        expire_jobs(self.ledger, self.now, 90 * DAY)
        gone = {job.name for job in self.ledger.jobs_of("s") if job.gone}
        for (name, labels), value in before.items():
            if name in self.expected and dict(labels).get("job_name") in gone:
                self.expected[name] -= value


def check_sums(harness):
    """Check what must hold at any time. Return the page."""
    page = harness.page()
    assert harness.sums(page) == dict(harness.expected)
    domain = {family.name for family in FAMILIES if family.level is Level.JOB}
    lines = Counter(base_of(name, domain) for name, _ in page)
    exposed = {
        dict(labels)["family"]: value for (name, labels), value in page.items() if name == "jobrun_exporter_series"
    }
    assert {family: value for family, value in exposed.items() if value} == {
        name: lines[name] for name in LIMITED if lines[name]
    }
    assert page["jobrun_exporter_series_limit", ()] == harness.config.metrics.max_series
    jobs = sum(not job.gone for job in harness.ledger.jobs_of("s"))
    own = sum(base_of(name, domain) in domain for name, labels in page if ("job_name", OTHER) not in labels)
    assert own <= harness.ledger.committed.series_total + RARE * jobs
    return page


def base_of(name, families):
    """Return the family of a sample."""
    return next(
        (name.removesuffix(end) for end in ("_bucket", "_sum", "_count") if name.removesuffix(end) in families), name
    )


RUN = st.tuples(
    st.just("run"),
    st.integers(0, 11),
    st.sampled_from([Result.SUCCESS, Result.FAILURE, Result.SKIP]),
    st.lists(st.sampled_from("abcde"), max_size=3, unique=True),
    st.sampled_from(["", "odd", "Boom", "Bang"]),
)
EVENTS = st.lists(
    RUN
    | RUN
    | RUN
    | st.tuples(st.sampled_from(["restart", "expire"]))
    | st.tuples(st.just("resize"), st.sampled_from([1, 120, 250, 400, 900, 5000])),
    max_size=25,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(limit=st.sampled_from([1, 120, 250, 400, 900]), events=EVENTS)
def test_sums_are_right_and_series_bounded_no_matter_which_jobs_come_and_go(limit, events):
    with tempfile.TemporaryDirectory() as folder:
        harness = BoundedHarness(Path(folder) / "state.db", limit)
        for what, *how in events:
            before, taken = harness.page(), harness.ledger.committed.series_total
            full = harness.ledger.committed.series_total >= harness.changes["max_series"]
            match what:
                case "run":
                    harness.end(f"j{how[0]}", *how[1:])
                case "restart":
                    harness.reopen()
                    harness.read()
                case "expire":
                    harness.expire()
                case "resize":
                    harness.configure(max_series=how[0])
            page = check_sums(harness)
            if what in {"restart", "resize"}:
                # folded jobs may have got their own series, which start at 0
                assert {each: value for each, value in page.items() if each[0] in harness.expected and value} == {
                    each: value for each, value in before.items() if each[0] in harness.expected and value
                }
            # each further result of `__other__` steps is one more series
            assert harness.ledger.committed.series_total <= max(harness.changes["max_series"], taken) + RARE
            if full and what == "run":
                assert harness.labels(page) <= harness.labels(before)
        harness.close()


@pytest.fixture
def bounded(tmp_path):
    """Return a function that makes a harness with a bound."""
    made = []

    def make(max_series=100_000, **more):
        made.append(BoundedHarness(tmp_path / f"{len(made)}.db", max_series, **more))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def weight(bounded):
    """Return the number of series of a job with one run."""
    harness = bounded()
    harness.end("first")
    return harness.ledger.committed.series_total


def of_job(page, family, job):
    """Return the sum of a family's series of a job."""
    return sum(value for (name, labels), value in page.items() if name == family and dict(labels)["job_name"] == job)


def test_a_folded_job_gets_its_own_series_from_0_once_there_is_room(bounded, weight):
    harness = bounded(max_series=weight)
    for _ in range(3):
        harness.end("first")
        harness.end("second")
    page = check_sums(harness)
    assert (of_job(page, RUNS, "first"), of_job(page, RUNS, "second"), of_job(page, RUNS, OTHER)) == (3, 0, 3)
    needed = harness.ledger.committed.series_total
    harness.configure(max_series=int(needed / 0.9))  # nine tenths of the room are used
    harness.end("second")
    assert of_job(check_sums(harness), RUNS, OTHER) == 4
    harness.configure(max_series=needed + weight + 30)
    harness.read()
    page = check_sums(harness)
    assert (of_job(page, RUNS, "second"), "second" in str(page)) == (0, True)
    harness.end("second")
    page = check_sums(harness)
    assert (of_job(page, RUNS, "second"), of_job(page, RUNS, OTHER)) == (1, 4)


def test_each_folding_is_counted_once_no_matter_how_many_events_and_restarts_follow(bounded):
    harness = bounded(max_series=1)
    for _ in range(3):
        for job in ("a", "b"):
            harness.end(job, Result.FAILURE, steps=["load"], error_type="Boom")
        harness.reopen()
        harness.read()
    assert check_sums(harness)[OVERFLOW, (("family", RUNS),)] == 2
    page = harness.page()
    assert {
        dict(labels)["job_name"] for name, labels in page if name.startswith("jobrun_") and "job_name" in dict(labels)
    } == {OTHER}


def test_a_rename_reuses_the_room_of_its_old_series(bounded, weight):
    harness = bounded(max_series=weight)
    harness.end("j")
    harness.end("j", jobs=[Job(job_id="j", name="new name")])
    page = harness.page()
    assert (of_job(page, RUNS, "new name"), of_job(page, RUNS, OTHER), of_job(page, RUNS, "j")) == (1, 0, 0)


def test_an_expired_job_makes_room_and_returns_at_0(bounded, weight):
    harness = bounded(max_series=weight)
    harness.end("old")
    harness.end("young")
    harness.expire()
    assert harness.labels(check_sums(harness)) == set()
    harness.end("young")
    harness.end("old")
    page = check_sums(harness)
    counts = {job: of_job(page, RUNS, job) for job in ("young", "old", OTHER)}
    assert counts == {"young": 1, "old": 0, OTHER: 2}
    harness.configure(max_series=4 * weight)
    harness.end("old")
    assert of_job(check_sums(harness), RUNS, "old") == 1


def domain_series(harness):
    """Return the number of series of jobs on the page."""
    return sum("job_name" in dict(labels) for _, labels in harness.page())


@pytest.mark.parametrize("results", [(Result.SUCCESS, Result.FAILURE), (Result.SUCCESS, Result.FAILURE, Result.SKIP)])
def test_the_page_exceeds_the_limit_by_at_most_10_percent_after_any_first_poll(bounded, results):
    harness = bounded(max_series=3000)
    names = [f"j{number}" for number in range(120)]
    harness.read(jobs=[Job(job_id=name, name=name) for name in names])
    for n, result in enumerate(results):
        runs = [ended(f"{n}-{name}", harness.now - 1, job_id=name, result=result, queue_duration=5.0) for name in names]
        steps = {run.run_id: [Step(name=each, result=result, duration=1.0) for each in "abc"] for run in runs}
        harness.read(*runs, steps=steps)
        assert domain_series(harness) <= 3300
    page = harness.page()
    total = sum(value for (name, _), value in page.items() if name == RUNS)
    durations = sum(value for (name, _), value in page.items() if name == f"{DURATIONS}_count")
    assert (total, durations) == (120 * len(results), 120 * len(results))
    assert page[OVERFLOW, (("family", RUNS),)] > 0


def test_one_run_of_thousands_of_steps_stays_within_the_limit_and_is_reported(bounded):
    harness = bounded(max_series=3000)
    harness.end("j", steps=[f"step {number}" for number in range(3000)])
    page = check_sums(harness)
    assert domain_series(harness) <= 3300
    assert page[OVERFLOW, (("family", STEPS),)] > 2000


def test_thousands_of_error_types_stay_within_the_limit_and_are_reported(bounded):
    harness = bounded(max_series=1000)
    for number in range(60):
        harness.end(f"j{number % 5}", Result.FAILURE, error_type=f"type {number}")
    runs = [
        ended(f"e{n}", harness.now - 1, job_id="j0", result=Result.FAILURE, error_type=f"more {n}") for n in range(2000)
    ]
    harness.read(*runs)
    page = harness.page()
    assert domain_series(harness) <= 1100
    assert page[OVERFLOW, (("family", ERRORS),)] > 1900


def test_excluded_jobs_make_room_for_folded_ones(bounded, weight):
    harness = bounded(max_series=3 * weight)
    for name in ("a1", "a2", "a3", "b1", "b2"):
        harness.end(name)
    assert {job.name for job in harness.ledger.jobs_of("s") if job.folded} == {"b1", "b2"}
    harness.reopen(exclude=("a.*",))
    harness.read()
    assert not any(job.folded for job in harness.ledger.jobs_of("s"))
    assert domain_series(harness) <= harness.ledger.committed.series_total <= 3.3 * weight


def test_disabled_step_histograms_make_room(bounded):
    harness = bounded(max_series=350)
    for name in ("a", "b", "c", "d"):
        harness.end(name, steps=["x", "y", "z"])
    folded = {job.name for job in harness.ledger.jobs_of("s") if job.folded}
    assert folded
    before = harness.ledger.committed.series_total
    harness.step_histograms = "off"
    harness.configure()
    assert harness.ledger.committed.series_total < before
    harness.read()
    assert {job.name for job in harness.ledger.jobs_of("s") if job.folded} < folded


def test_a_job_that_returns_shows_0_before_its_first_completion(tmp_path):
    harness = PageHarness(tmp_path / "state.db")
    harness.read(ended("a", BASELINE + 100))
    harness.now += 91 * DAY
    harness.read()
    expire_jobs(harness.ledger, harness.now, 90 * DAY)
    assert harness.scrape(RUNS, "job_name") == {}
    harness.read(ended("b", harness.now - 1))
    assert harness.scrape(RUNS, "result")["success",] == 0
    harness.now += 200
    assert harness.scrape(RUNS, "result")["success",] == 1
    harness.close()


def test_too_many_steps_end_step_histograms_until_a_reload_finds_fewer(bounded):
    harness = bounded(step_histograms="auto")
    observed = "jobrun_step_duration_seconds_count"
    harness.end("small", steps=["one"])
    harness.end("large", steps=[str(number) for number in range(MANY_STEPS - 1)])
    assert (
        check_sums(harness)[
            observed, tuple(sorted({"source": "s", "project": "", "job_name": "small", "step_name": "one"}.items()))
        ]
        == 1
    )
    harness.end("small", steps=["another"])
    assert not any(name.startswith("jobrun_step_duration") for name, _ in harness.page())
    harness.configure()  # a reload, still with too many
    assert not any(name.startswith("jobrun_step_duration") for name, _ in harness.page())
    harness.now += 91 * DAY
    harness.end("small", steps=["one"])
    expire_jobs(harness.ledger, harness.now, 90 * DAY)
    harness.read()
    assert not any(name.startswith("jobrun_step_duration") for name, _ in harness.page())
    harness.configure()
    harness.end("small", steps=["one"])
    assert any(name == observed for name, _ in harness.page())


def test_a_removed_source_gets_its_room_back_when_it_returns(bounded, weight):
    harness = bounded(max_series=2 * weight)
    for name in ("a", "b", "c"):
        harness.end(name)
    another = msgspec.structs.replace(harness.rules, name="another", identity="another api")
    harness.ledger.configure({"another": another}, counting_rules(harness.config), "on")
    for name in ("d", "e"):
        harness.ledger.start_poll("another", harness.now)
        run = ended(name, harness.now + 1, job_id=name)
        batch = Batch(jobs=[Job(job_id=name, name=name)], runs=[run], through=harness.now)
        harness.ledger.commit("another", batch, PollContext(now=harness.now + 2, started=harness.now))
    harness.ledger.configure({"s": harness.rules, "another": another}, counting_rules(harness.config), "on")
    assert harness.ledger.committed.series_total <= 2 * weight
    assert {job.name for job in harness.ledger.jobs_of("another") if job.folded} == {"d", "e"}


def test_jobs_of_a_removed_source_expire_by_the_clock_of_the_others(bounded, weight):
    harness = bounded()
    harness.end("a")
    another = msgspec.structs.replace(harness.rules, name="another", identity="another api")
    harness.ledger.configure({"another": another}, counting_rules(harness.config), "on")
    for days, room in ((89, weight), (91, 0)):
        now = harness.now + days * DAY
        harness.ledger.start_poll("another", now)
        harness.ledger.commit("another", Batch(through=now), PollContext(now=now, started=now))
        harness.ledger.finish_poll("another", success(now))
        expire_jobs(harness.ledger, now, 90 * DAY)
        assert harness.ledger.committed.series_total == room


def test_the_page_keeps_its_limit_including_all_series_of_other(tmp_path):
    harness = PageHarness(tmp_path / "state.db", zero_first="0s", startup_hold="0s, max_series: 400")
    harness.read()
    for number in range(12):
        for result in harness.rules.results:
            name = f"j{number}"
            fields = {"queue_duration": 5.0, "error_type": f"e{number}", "job_id": name, "result": result}
            run = ended(f"{name}-{result}", harness.now - 1, **fields)
            harness.read(run, steps={run.run_id: [Step(name="s", result=result, duration=1.0)]})
    harness.publisher.publish()
    page: Any = harness.exposition.page
    text = bytes(page.text).decode()
    lines = [line for line in text.splitlines() if "job_name=" in line]
    assert sum(OTHER in line for line in lines) > 75
    assert len(lines) <= 400
    harness.close()


def test_no_text_of_a_vendor_makes_a_label_longer_than_documented(tmp_path):
    long = "x" * 5000
    harness = PageHarness(tmp_path / "state.db", source=f", run_url: 'https://one.example.com/{long[:900]}/{{run_id}}'")
    url = f"https://one.example.com/{long}"
    job = Job(job_id=long, name=long, project=long, schedule=long, timezone=long, url=url, stop_cause=long)
    failed = ended(long, job_id=long, result=Result.FAILURE, error_type=long)
    harness.read(failed, Run(run_id="r", job_id=long, unmapped=long, start=BASELINE), jobs=[job])
    for row in harness.ledger.pending_steps("s", harness.now, 1):
        harness.ledger.commit_steps("s", row, [Step(name=long, result=Result.FAILURE)], harness.poll_context)
    harness.publisher.publish()
    page: Any = harness.exposition.page
    longest = Counter[str]()
    for metric in text_string_to_metric_families(bytes(page.text).decode()):
        for sample in metric.samples:
            for name, value in sample.labels.items():
                longest[name] = max(longest[name], len(value))
    urls = {name: longest.pop(name) for name in ("url", "run_url", "api_url")}
    assert max(longest.values()) == MAX_LABEL
    assert max(urls.values()) <= MAX_URL
    harness.close()
