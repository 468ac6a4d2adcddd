"""Whatever happens to jobs and their names, no series stands on a page twice."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model import Job, Result
from tests.core.ledger_harness import ended
from tests.core.shown import ShownBook

DAY = 86400.0
IDS = ("1", "2", "a b", "a\tb")
NAMES = ("etl", "etl #1", "etl #2", "a b", "a\tb", "x" * 300)
jobs = st.builds(lambda job_id, name: Job(job_id=job_id, name=name), st.sampled_from(IDS), st.sampled_from(NAMES))
lists = st.lists(jobs, max_size=4, unique_by=lambda each: each.job_id)
"""Jobs as one answer lists them: an ID at most once, a name as often as it likes."""
steps = st.tuples(lists, st.sampled_from(list(Result)[:2]), st.sampled_from(["", "expire", "reopen"]))


def assert_unique(book):
    book.publisher.publish()
    book.publisher.tick()
    page = book.exposition.page
    book.holds.scraped(page.generation)
    for text in (page.text, page.openmetrics):
        lines = [line for line in bytes(text).decode().splitlines() if not line.startswith("#")]
        twice = [
            series
            for series, times in Counter(line.partition(" # ")[0].rpartition(" ")[0] for line in lines).items()
            if times > 1
        ]
        assert lines
        assert twice == []


def live(book, history):
    """Let a source list these jobs, each with a run that has ended, one answer after the other."""
    for number, (listed, result, then) in enumerate(history):
        runs = [ended(f"{number}-{job.job_id}", book.now - 1, job_id=job.job_id, result=result) for job in listed]
        book.read(*runs, jobs=listed, catalog=True)
        book.now += 1000
        if then == "expire":
            book.now += 100 * DAY
            book.read()
            book.ledger.expire(book.now, 90 * DAY)
        elif then == "reopen":
            book.reopen()
        assert_unique(book)


@settings(max_examples=25, deadline=None)
@given(history=st.lists(steps, min_size=1, max_size=5))
def test_no_series_stands_on_a_page_twice(history):
    with tempfile.TemporaryDirectory() as folder:
        book = ShownBook(Path(folder) / "state.db")
        try:
            live(book, history)
        finally:
            book.close()


def test_no_series_stands_on_a_page_twice_when_a_job_returns_after_its_name_was_taken(tmp_path):
    first, second = Job(job_id="1", name="etl"), Job(job_id="2", name="etl")
    book = ShownBook(tmp_path / "state.db", zero_first="0s")
    answers = ([first], [], [], [second], [first, second], [second, first])
    live(book, [(listed, Result.SUCCESS, then) for listed in answers for then in ("", "reopen")])
    assert len(book.scrape("jobrun_job_info", "job_name")) == 2
    book.close()
