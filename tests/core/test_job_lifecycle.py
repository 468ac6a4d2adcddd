"""Jobs that disappear, return, are renamed or excluded: no run is counted in a series that is not exposed."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.counting.classify import CountState
from exporter.counting.labels import MAX_LABEL
from exporter.ledger.housekeeping import expire_jobs
from exporter.model import Batch, Disposition, Job, Result, State
from tests.core.ledger_harness import BASELINE, RUNS, LedgerHarness, ended, run
from tests.core.page_harness import PageHarness

DAY = 86400.0


def assert_series_are_unique(harness):
    """Assert that no series is on the page twice."""
    harness.publisher.publish()
    text = bytes(harness.exposition.page.text).decode()
    found = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(found) == len(set(found))


@pytest.fixture
def page_harness(tmp_path):
    harness = PageHarness(tmp_path / "state.db", zero_first="0s")
    yield harness
    harness.close()


# --- a run that changes its job ---

OLD, NEW = Job(job_id="old", name="old"), Job(job_id="new", name="new")
ACTIVE_RUN = run(job_id="old", state=State.EXECUTING, start=BASELINE - 5)


@pytest.mark.parametrize(
    "rows",
    [
        [run(job_id="new", result=Result.FAILURE, start=BASELINE - 5, end=BASELINE + 70)],
        [run(job_id="new", state=State.EXECUTING, start=BASELINE - 5)],
        [run(job_id="new", state=State.PENDING), run(job_id="new", result=Result.FAILURE, end=BASELINE + 70)],
        [run(job_id="new", state=State.EXECUTING), run(job_id="old", state=State.EXECUTING)],
    ],
    ids=["renamed at its end", "renamed while open", "renamed, then ended", "to and fro"],
)
def test_a_run_that_changes_its_job_leaves_no_open_run_behind(page_harness, rows):
    page_harness.read(ACTIVE_RUN, jobs=[OLD, NEW])
    for row in rows:
        page_harness.read(row, jobs=[OLD, NEW])
        active = page_harness.scrape("jobrun_active_runs", "job_name", "state")
        open_in = {name for (name, _), count in active.items() if count}
        assert open_in == (set() if row.result else {row.job_id})
    assert page_harness.total("new") == sum(row.result is not None for row in rows)
    assert page_harness.total("old") == 0


def test_a_run_that_moves_to_an_excluded_job_is_open_nowhere_and_counts_for_no_job(tmp_path):
    harness = PageHarness(tmp_path / "state.db", zero_first="0s", exclude=("new",))
    harness.read(ACTIVE_RUN, jobs=[OLD, NEW])
    harness.read(run(job_id="new", state=State.EXECUTING), jobs=[OLD, NEW])
    assert harness.active("old") == 0
    harness.now += 9 * DAY
    harness.read()
    assert (harness.total("old"), harness.total("new")) == (0, 0)
    harness.close()


# --- names ---


def test_a_job_that_returns_after_its_name_was_taken_gets_a_distinct_name(page_harness):
    first, second = Job(job_id="1", name="etl"), Job(job_id="2", name="etl")
    page_harness.read(ended("a", BASELINE + 1, job_id="1"), jobs=[first], catalog=True)
    for _ in range(2):
        page_harness.now += 1000
        page_harness.read(jobs=[], catalog=True)
    page_harness.read(ended("b", page_harness.now - 1, job_id="2"), jobs=[second], catalog=True)
    for _ in range(2):
        page_harness.read(ended("c", page_harness.now - 1, job_id="1"), jobs=[first, second], catalog=True)
        assert page_harness.scrape(RUNS, "job_name", "result")["etl #1", "success"] == 1
        assert page_harness.scrape(RUNS, "job_name", "result")["etl", "success"] == 1
        assert_series_are_unique(page_harness)
        page_harness.reopen()


def test_a_retired_job_that_returns_with_a_run_gets_a_distinct_name_too(page_harness):
    one, two = Job(job_id="a\tb", name="a\tb"), Job(job_id="a b", name="a b")
    page_harness.read(ended("1", BASELINE + 1, job_id="a\tb"), jobs=[one])
    page_harness.now += 100 * DAY
    page_harness.read()
    expire_jobs(page_harness.ledger, page_harness.now, 90 * DAY)
    page_harness.read(ended("2", page_harness.now - 1, job_id="a b"), jobs=[two])
    page_harness.read(ended("3", page_harness.now - 1, job_id="a\tb"), jobs=[two])
    page_harness.read(ended("4", page_harness.now - 1, job_id="a b"), jobs=[one, two])
    assert_series_are_unique(page_harness)
    assert {name: value for (name, _), value in page_harness.scrape(RUNS, "job_name", "result").items() if value} == {
        "a b": 2,
        "a b #a b": 1,
    }


def test_a_job_that_returns_keeps_the_name_under_which_it_was_known(page_harness):
    first, second = Job(job_id="1", name="etl"), Job(job_id="2", name="etl")
    page_harness.read(jobs=[first, second], catalog=True)
    for _ in range(2):
        page_harness.now += 1000
        page_harness.read(jobs=[], catalog=True)
    page_harness.read(jobs=[second], catalog=True)
    page_harness.read(jobs=[first, second], catalog=True)
    assert [page_harness.job("1").name, page_harness.job("2").name] == ["etl", "etl #2"]


def test_a_job_included_again_after_its_name_was_taken_gets_a_distinct_name(page_harness):
    first, second = Job(job_id="1", name="a"), Job(job_id="2", name="b")
    page_harness.configure(exclude=("a",))
    page_harness.read(jobs=[first, second])
    page_harness.configure(exclude=())
    page_harness.read(jobs=[Job(job_id="2", name="a")])
    page_harness.read(jobs=[first])
    assert len({page_harness.job("1").name, page_harness.job("2").name}) == 2
    assert_series_are_unique(page_harness)


@pytest.mark.parametrize("ids", [["1", "2", "3", "4"], [f"{'i' * 300}{number}" for number in range(4)]])
def test_names_stay_bounded_no_matter_how_many_jobs_have_the_same_one(page_harness, ids):
    name = "x" * 300
    jobs = [Job(job_id=each, name=name) for each in ids]
    jobs.append(Job(job_id="y", name=f"{'x' * (MAX_LABEL - 3)} #2"))
    for _ in range(3):
        page_harness.read(jobs=jobs)
    names = [page_harness.job(job.job_id).name for job in jobs]
    assert len(set(names)) == len(jobs)
    assert max(map(len, names)) <= MAX_LABEL
    assert all(each.count("#") <= 2 for each in names)


# --- jobs that go ---


def unlist_jobs(harness, jobs=()):
    """List only these jobs, until the others expire."""
    for _ in range(3):
        harness.read(jobs=jobs, catalog=True)
        harness.now += 1000


def test_a_job_stays_while_its_run_is_active_and_until_the_end_is_seen(page_harness):
    page_harness.read(run(state=State.EXECUTING, start=BASELINE - 10), jobs=[Job(job_id="j", name="j")], catalog=True)
    unlist_jobs(page_harness)
    assert not page_harness.job().gone
    page_harness.read(ended(end=page_harness.now - 5, length=500.0, result=Result.FAILURE), jobs=[], catalog=True)
    assert page_harness.scrape(RUNS, "result")["failure",] == 1
    page_harness.read(jobs=[], catalog=True)
    assert page_harness.scrape(RUNS, "result")["failure",] == 1
    unlist_jobs(page_harness)
    assert page_harness.scrape(RUNS, "result") == {}


@pytest.mark.parametrize("listed", [True, False])
def test_a_completed_run_of_a_deleted_job_brings_it_back_at_0(tmp_path, listed):
    harness = PageHarness(tmp_path / "state.db")
    job = Job(job_id="j", name="j")
    harness.read(ended("a"), jobs=[job], catalog=True)
    unlist_jobs(harness)
    assert (harness.job().gone, harness.job().counts) == (True, {})
    assert harness.scrape(RUNS, "result") == {}
    harness.read(ended("b", harness.now - 5, result=Result.FAILURE), jobs=[job] if listed else [])
    assert harness.scrape(RUNS, "result")["failure",] == 0
    harness.read(jobs=[], catalog=True)
    harness.now += 200
    harness.read(jobs=[], catalog=True)
    assert harness.scrape(RUNS, "result")["failure",] == 1
    harness.close()


def test_an_open_run_of_a_deleted_job_brings_it_back(page_harness):
    page_harness.read(jobs=[Job(job_id="j", name="j")], catalog=True)
    unlist_jobs(page_harness)
    page_harness.read(run(state=State.EXECUTING, start=page_harness.now - 5), jobs=[])
    assert page_harness.scrape("jobrun_active_runs", "state")["executing",] == 1


def test_the_last_open_run_of_a_deleted_scope_expires_before_its_job_and_the_scope_are_removed(harness):
    job = Job(job_id="k", name="k", scope="x")
    listing = Batch(scope="x", jobs=[job], catalog=True, through=BASELINE)
    active_run = run(job_id="k", state=State.EXECUTING, start=BASELINE - 5)
    harness.poll(listing, Batch(scope="x", runs=[active_run]))
    unlisted = Batch(scope="x", readable=False, exists=False)
    for _ in range(5):
        harness.poll(unlisted, advance=1000)
    assert not harness.job("k").gone
    harness.now += 8 * DAY
    harness.poll(unlisted, advance=1000)
    assert harness.counts("k") == {"unknown": 1}
    for _ in range(3):
        harness.poll(unlisted, advance=1000)
    assert harness.job("k").gone
    assert "x" not in harness.ledger.source("s").scopes


# --- jobs and the filter ---


@pytest.fixture
def filtered(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", include=("prod-.*",))
    harness.read()
    harness.now += 3600
    yield harness
    harness.close()


def job_named(name):
    return [Job(job_id="j", name=name)]


def failed_runs(harness, count=3):
    return [ended(f"{harness.now}-{n}", harness.now - 100 + n, result=Result.FAILURE) for n in range(count)]


def test_runs_before_a_rename_included_the_job_are_not_counted(filtered):
    runs_before = failed_runs(filtered)
    stats = filtered.read(*runs_before, jobs=job_named("test-x"))
    assert stats.dispositions[Disposition.IGNORED] == 3
    stats = filtered.read(*runs_before, jobs=job_named("prod-x"))
    assert (stats.dispositions[Disposition.BASELINE], filtered.counts()) == (3, {})
    filtered.read(*failed_runs(filtered), jobs=job_named("prod-x"))
    assert filtered.counts() == {}
    filtered.now += 300
    filtered.read(*failed_runs(filtered), jobs=job_named("prod-x"))
    assert filtered.counts() == {"failure": 3}


def test_a_job_that_is_renamed_out_of_the_filter_and_back_counts_nothing_in_between(filtered):
    filtered.read(*failed_runs(filtered), jobs=job_named("prod-x"))
    assert filtered.counts() == {"failure": 3}
    excluded_runs = failed_runs(filtered)
    filtered.now += 120
    assert filtered.read(*excluded_runs, jobs=job_named("test-x")).dispositions[Disposition.IGNORED] == 3
    assert (filtered.job().excluded, filtered.counts()) == (True, {})
    filtered.read(*excluded_runs, jobs=job_named("prod-x"))
    assert filtered.counts() == {}
    filtered.now += 300
    filtered.read(*failed_runs(filtered), jobs=job_named("prod-x"))
    assert filtered.counts() == {"failure": 3}


def test_a_job_that_is_renamed_out_of_the_filter_leaves_the_page(tmp_path):
    harness = PageHarness(tmp_path / "state.db", zero_first="0s", include=("prod-.*",))
    harness.read(jobs=job_named("prod-x"), catalog=True)
    harness.read(jobs=job_named("test-x"), catalog=True)
    assert harness.scrape(RUNS, "job_name") == {}
    harness.read(jobs=job_named("prod-y"), catalog=True)
    assert set(harness.scrape(RUNS, "job_name")) == {("prod-y",)}
    harness.close()


def test_open_runs_of_an_excluded_job_are_never_counted(harness):
    harness.read(run(state=State.EXECUTING, start=BASELINE))
    harness.configure(exclude=("j",))
    harness.now += 8 * DAY
    harness.read()
    assert (harness.counts(), harness.row().mark) == ({}, CountState.BASELINE)
    harness.configure(exclude=())
    harness.read(ended(end=harness.now - 5))
    assert harness.counts() == {}


# --- scopes that cannot be read ---


def test_open_runs_of_an_unreadable_scope_do_not_expire_and_count_once_it_is_readable(harness):
    job = [Job(job_id="j", name="j", scope="x")]
    active_run = run(state=State.EXECUTING, start=BASELINE)
    harness.now += 10
    harness.poll(Batch(scope="x", jobs=job, runs=[active_run], through=BASELINE + 5))
    for _ in range(3):
        harness.now += 4 * DAY
        harness.poll(Batch(scope="x", readable=False))
    assert harness.counts() == {}
    assert harness.ledger.source("s").scopes["x"].watermark == BASELINE + 5
    harness.poll(Batch(scope="x", jobs=job, runs=[ended(end=BASELINE + 100, length=100.0)], through=harness.now - 60))
    assert harness.counts() == {"success": 1}


def test_a_scope_that_becomes_readable_again_continues_from_its_watermark(harness):
    job = [Job(job_id="j", name="j", scope="x")]
    harness.now += 10
    harness.poll(Batch(scope="x", jobs=job, through=BASELINE + 5))
    harness.now += 3600
    harness.poll(Batch(scope="x", readable=False))
    harness.now += 3600
    harness.poll(Batch(scope="x", jobs=job, runs=[ended("new", BASELINE + 4000)], through=harness.now - 60))
    assert harness.counts() == {"success": 1}


def test_a_scope_read_once_without_a_watermark_keeps_its_baseline(harness):
    job = [Job(job_id="j", name="j", scope="x")]
    harness.poll(Batch(scope="x", jobs=job))  # no "through": no watermark yet
    harness.now += 3600
    harness.poll(Batch(scope="x", readable=False))
    harness.now += 3600
    other = Job(job_id="k", name="k", scope="x")
    runs = [ended("a", BASELINE + 4000), ended("b", BASELINE + 4000, job_id="k")]
    harness.poll(Batch(scope="x", jobs=[*job, other], runs=runs, through=harness.now - 60))
    assert (harness.counts("j"), harness.counts("k")) == ({"success": 1}, {"success": 1})


def test_reading_a_scope_writes_only_its_own_row(harness):
    scopes = [f"scope {number}" for number in range(20)]
    harness.now += 100
    harness.poll(*(Batch(scope=scope, through=BASELINE, checkpoints={scope: "1"}) for scope in scopes))
    harness.poll(Batch(scope="scope 7", through=BASELINE + 30, checkpoints={"scope 7": "2", "scope 3": ""}))
    harness.poll(Batch(scope="scope 9", exists=False), advance=1000)
    harness.poll(Batch(scope="scope 9", exists=False))
    harness.reopen()
    state = harness.ledger.source("s")
    assert {name: scope.watermark for name, scope in state.scopes.items()} == {
        scope: BASELINE + 30 * (scope == "scope 7") for scope in scopes if scope != "scope 9"
    }
    assert state.checkpoints == {scope: "2" if scope == "scope 7" else "1" for scope in scopes if scope != "scope 3"}
