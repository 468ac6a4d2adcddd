"""One row per run is used, no matter how many rows an API shows."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Result, Run, State, one_row_per_run

ROWS = st.builds(
    Run,
    run_id=st.sampled_from("abc"),
    job_id=st.sampled_from("jk"),
    result=st.none() | st.sampled_from(Result),
    state=st.none() | st.sampled_from(State),
    start=st.none() | st.integers(0, 3).map(float),
    end=st.none() | st.integers(0, 3).map(float),
)


@given(st.lists(ROWS, max_size=6).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_the_result_does_not_depend_on_the_order_of_rows(both):
    rows, shuffled = both
    assert set(map(repr, one_row_per_run(rows))) == set(map(repr, one_row_per_run(shuffled)))


@given(st.lists(ROWS, max_size=6))
def test_a_completed_row_wins_and_the_latest_end_among_completed_rows(rows):
    for kept in one_row_per_run(rows):
        same = [row for row in rows if row.run_id == kept.run_id]
        ended = [row for row in same if row.result is not None]
        assert (kept.result is not None) == bool(ended)
        ends = [row.end for row in ended or same if row.end is not None]
        assert kept.end == max(ends, default=None)


@given(st.lists(ROWS, max_size=6))
def test_every_run_keeps_exactly_one_row(rows):
    assert sorted(kept.run_id for kept in one_row_per_run(rows)) == sorted({row.run_id for row in rows})
