"""A poll may show a run twice, and one of the rows may be stale: the order of rows and batches does not matter."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.counting.classify import CountState
from exporter.model import Batch, Disposition, Job, Result, State
from tests.core.ledger_harness import BASELINE, LedgerHarness, ended, run

OPEN = run(state=State.EXECUTING, start=BASELINE + 10)
ENDED = ended(end=BASELINE + 40)
LATER = ended(end=BASELINE + 45, length=35.0)
JOBS = [Job(job_id="j", name="j"), Job(job_id="k", name="k")]


def poll(harness, *parts, **fields):
    """Poll with one batch for each part of these rows."""
    through = harness.now - 60
    return harness.poll(*(Batch(jobs=JOBS, runs=rows, through=through, **fields) for rows in parts))


def splits(rows):
    """Return all orders of these rows, in one batch and in several."""
    for order in itertools.permutations(rows):
        for cuts in itertools.product((False, True), repeat=len(rows) - 1):
            parts = [[order[0]]]
            for row, cut in zip(order[1:], cuts, strict=True):
                if cut:
                    parts.append([])
                parts[-1].append(row)
            yield parts


def shape(parts):
    """Return a short name of a split."""
    letters = {OPEN: "O", ENDED: "E", LATER: "L"}
    return "|".join("".join(letters[row] for row in rows) for rows in parts)


@pytest.fixture(params=[False, True], ids=["ids end", "ids reopen"])
def vendor(request, tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", reopens=request.param)
    harness.read()
    harness.now = BASELINE + 60
    yield harness
    harness.close()


@pytest.mark.parametrize("parts", list(splits([ENDED, OPEN])), ids=shape)
@pytest.mark.parametrize("before", [None, OPEN, ENDED], ids=["unknown", "open", "counted"])
def test_a_completed_row_wins_over_an_open_one_at_every_poll(vendor, parts, before):
    if before is not None:
        poll(vendor, [before])
    for number in range(4):
        stats = poll(vendor, *parts)
        assert vendor.counts() == {"success": 1}
        assert (vendor.row().mark, vendor.active()) == (CountState.COUNTED, 0)
        if number:
            assert sum(each.dispositions[Disposition.UPDATED] for each in stats) == 0
    vendor.reopen()
    poll(vendor, *parts)
    assert vendor.counts() == {"success": 1}


@pytest.mark.parametrize("parts", list(splits([ENDED, LATER, OPEN])), ids=shape)
def test_the_later_of_two_completed_rows_wins(vendor, parts):
    for _ in range(3):
        poll(vendor, *parts)
        assert (vendor.total(), vendor.active()) == (1, 0)
        assert vendor.job().last_run.end == LATER.end
        assert vendor.row().run == LATER


def test_a_run_reopened_in_a_later_poll_is_open_and_its_next_completion_counts(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", reopens=True)
    poll(harness, [ENDED])
    again = run(state=State.PENDING, created=BASELINE + 10)
    stats = poll(harness, [again])
    assert (harness.active(), harness.counts()) == (1, {"success": 1})
    assert sum(each.dispositions[Disposition.UPDATED] for each in stats) == 1
    poll(harness, [again])
    harness.now += 300
    poll(harness, [ended(end=BASELINE + 400)], [again])
    assert (harness.active(), harness.counts()) == (0, {"success": 2})
    harness.close()


def test_a_reopened_run_is_still_followed_after_a_poll_that_failed_midway(tmp_path):
    harness = LedgerHarness(tmp_path / "state.db", reopens=True)
    poll(harness, [ENDED])
    harness.begin()
    harness.ledger.commit("s", Batch(runs=[OPEN], through=harness.now - 60), harness.poll_context)
    harness.now += 60
    harness.begin()
    assert harness.active() == 1
    harness.close()


def test_a_correction_to_an_earlier_end_changes_the_gauges_if_no_other_row_of_the_poll_contradicts(vendor):
    poll(vendor, [LATER])
    corrected = ended(end=BASELINE + 44, length=35.0)
    if vendor.changes["reopens"]:
        return
    poll(vendor, [corrected])
    assert (vendor.total(), vendor.job().last_run.end) == (1, corrected.end)


def test_a_completion_without_an_end_does_not_count_if_the_poll_also_shows_an_end_before_the_baseline(vendor):
    pending = run(state=State.PENDING, created=BASELINE - 100)
    without_end = run(result=Result.FAILURE, start=BASELINE - 50)
    before = ended(end=BASELINE - 20, result=Result.FAILURE)
    poll(vendor, [pending])
    poll(vendor, [without_end], [before])
    assert vendor.total() == 0


def test_a_completion_without_an_end_counts_at_the_end_of_the_poll(vendor):
    poll(vendor, [run(state=State.PENDING, created=BASELINE - 100)])
    poll(vendor, [run(result=Result.FAILURE, start=BASELINE - 50)])
    assert vendor.total() == 1
    poll(vendor, [run(result=Result.FAILURE, start=BASELINE - 50)])
    assert vendor.total() == 1


ROWS = [
    each
    for run_id in ("a", "b")
    for each in (
        run(run_id, state=State.PENDING, created=BASELINE - 100),
        run(run_id, state=State.EXECUTING, start=BASELINE - 50),
        ended(run_id, BASELINE - 20, result=Result.FAILURE),
        ended(run_id, BASELINE + 30, result=Result.FAILURE),
        ended(run_id, BASELINE + 50, result=Result.FAILURE),
        run(run_id, result=Result.FAILURE, start=BASELINE - 50),
    )
]


def entered_in(parts, before, *, reopens):
    """Return what a poll of these batches leaves behind."""
    with tempfile.TemporaryDirectory() as folder:
        harness = LedgerHarness(Path(folder) / "state.db", reopens=reopens)
        for rows in before:
            poll(harness, rows)
        poll(harness, *parts)
        marks = {run_id: (row.mark, row.run) for run_id, row in harness.ledger.rows("s", "ab").items()}
        state = harness.total(), harness.active(), marks
        harness.close()
        return state


def test_a_stale_open_row_of_a_poll_does_not_replace_what_a_later_batch_confirms():
    pending, executing = ROWS[0], ROWS[1]
    for parts in ([[pending, executing]], [[pending], [executing]], [[executing], [pending]]):
        assert entered_in(parts, [[executing]], reopens=False) == entered_in(
            [[executing]], [[executing]], reopens=False
        )


@settings(max_examples=60)
@given(
    rows=st.lists(st.sampled_from(ROWS), min_size=1, max_size=5),
    before=st.lists(st.lists(st.sampled_from(ROWS), max_size=2), max_size=2),
    reopens=st.booleans(),
    data=st.data(),
)
def test_a_poll_has_the_same_result_in_every_order_and_every_split(rows, before, reopens, data):
    order = data.draw(st.permutations(rows))
    cuts = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    parts = [[]]
    for row, cut in zip(order, cuts, strict=True):
        if cut:
            parts.append([])
        parts[-1].append(row)
    assert entered_in(parts, before, reopens=reopens) == entered_in([rows], before, reopens=reopens)
