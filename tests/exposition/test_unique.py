"""No series is on a page twice, no matter what happens to jobs and their names."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ledger.housekeeping import expire_jobs
from exporter.model import Job, Result
from tests.core.ledger_harness import ended
from tests.core.page_harness import PageHarness

DAY = 86400.0
IDS = ("1", "2", "a b", "a\tb")
NAMES = ("etl", "etl #1", "etl #2", "a b", "a\tb", "x" * 300)
jobs = st.builds(lambda job_id, name: Job(job_id=job_id, name=name), st.sampled_from(IDS), st.sampled_from(NAMES))
lists = st.lists(jobs, max_size=4, unique_by=lambda each: each.job_id)
"""Jobs as one answer lists them: an ID at most once, a name as often as it likes."""
steps = st.tuples(lists, st.sampled_from(list(Result)[:2]), st.sampled_from(["", "expire", "reopen"]))


def assert_unique(harness):
    harness.publisher.publish()
    harness.publisher.tick()
    page = harness.exposition.page
    harness.pending_series.scraped(page.generation)
    for text in (page.text, page.openmetrics):
        lines = [line for line in bytes(text).decode().splitlines() if not line.startswith("#")]
        twice = [
            series
            for series, times in Counter(line.partition(" # ")[0].rpartition(" ")[0] for line in lines).items()
            if times > 1
        ]
        assert lines
        assert twice == []


def live(harness, history):
    """Let a source list these jobs, each with a run that has ended, one answer after the other."""
    for number, (listed, result, then) in enumerate(history):
        runs = [ended(f"{number}-{job.job_id}", harness.now - 1, job_id=job.job_id, result=result) for job in listed]
        harness.read(*runs, jobs=listed, catalog=True)
        harness.now += 1000
        if then == "expire":
            harness.now += 100 * DAY
            harness.read()
            expire_jobs(harness.ledger, harness.now, 90 * DAY)
        elif then == "reopen":
            harness.reopen()
        assert_unique(harness)


@settings(max_examples=25)
@given(history=st.lists(steps, min_size=1, max_size=5))
def test_no_series_is_on_a_page_twice(history):
    with tempfile.TemporaryDirectory() as folder:
        harness = PageHarness(Path(folder) / "state.db")
        try:
            live(harness, history)
        finally:
            harness.close()


def test_no_series_is_on_a_page_twice_when_a_job_returns_after_its_name_was_taken(tmp_path):
    first, second = Job(job_id="1", name="etl"), Job(job_id="2", name="etl")
    harness = PageHarness(tmp_path / "state.db", zero_first="0s")
    answers = ([first], [], [], [second], [first, second], [second, first])
    live(harness, [(listed, Result.SUCCESS, then) for listed in answers for then in ("", "reopen")])
    assert len(harness.scrape("jobrun_job_info", "job_name")) == 2
    harness.close()


def test_no_series_is_on_a_page_twice_when_jobs_of_one_name_are_included_again(tmp_path):
    jobs = [Job(job_id="1", name="etl"), Job(job_id="2", name="etl")]
    harness = PageHarness(tmp_path / "state.db", zero_first="0s")
    harness.configure(exclude=("etl",))
    harness.read(jobs=jobs)
    harness.configure(exclude=())
    assert_unique(harness)  # no poll has given them distinct names yet
    harness.read(jobs=jobs)
    assert_unique(harness)
    assert len(harness.scrape("jobrun_job_info", "job_name")) == 2
    harness.close()
