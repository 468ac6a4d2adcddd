import msgspec
import pytest

from exporter.sources.workato.api import JobRow, Recipe
from exporter.sources.workato.marks import (
    Found,
    Page,
    ReadMark,
    SearchTarget,
    after,
    decode_marks,
    encode_marks,
    is_last,
    owed,
    to_be_read,
)


def recipe(succeeded=5, failed=1, last_run="x") -> Recipe:
    return Recipe(
        recipe_id="1", name="a", running=True, stop_cause="", succeeded=succeeded, failed=failed, last_run=last_run
    )


def rows(*ids, started=1000.0):
    return tuple(
        JobRow(
            job_id=each,
            status="succeeded",
            started=started,
            completed=started + 1,
            is_error=False,
            is_repeat=False,
            error_type="",
        )
        for each in ids
    )


MARK = ReadMark(succeeded=5, failed=1, last_run="x")
GOAL = SearchTarget(owed=2, floor=0.0)


def test_marks_survive_the_state():
    marks = {"1": MARK, "2": ReadMark(), "3": ReadMark(1, None, "y", 2, 3, 1, ("a", "b"), 2)}
    assert decode_marks(encode_marks(marks)) == marks
    assert decode_marks("") == decode_marks("{") == decode_marks('{"1": 5}') == {}


@pytest.mark.parametrize(
    ("mark", "now", "wanted"),
    [
        (None, recipe(), True),
        (MARK, recipe(), False),
        (MARK, recipe(succeeded=6), True),
        (MARK, recipe(succeeded=4), True),
        (MARK, recipe(failed=2), True),
        (MARK, recipe(last_run="y"), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", owed=1), recipe(), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", gaps=("a",)), recipe(), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", unreadable=3), recipe(), True),
        (ReadMark(succeeded=5, failed=1, last_run="x", unreadable=4), recipe(), False),
        (ReadMark(), recipe(None, None, ""), True),
    ],
)
def test_jobs_are_read_where_something_moved_or_is_owed(mark, now, wanted):
    assert to_be_read(mark, now) is wanted


@pytest.mark.parametrize(
    ("mark", "now", "number"),
    [
        (None, recipe(), None),
        (MARK, recipe(7, 2), 3),
        (MARK, recipe(7, 0), None),
        (MARK, recipe(None, 1), None),
        (ReadMark(succeeded=5, failed=1, owed=2), recipe(6), 3),
        (ReadMark(succeeded=5, failed=1, ahead=2), recipe(8), 1),
        (ReadMark(succeeded=5, failed=1, ahead=2), recipe(6), -1),
    ],
)
def test_the_rise_of_the_counts_is_what_is_owed_and_a_fall_tells_nothing(mark, now, number):
    assert owed(mark, now) == number


@pytest.mark.parametrize(
    ("page", "goal", "found", "last"),
    [
        (Page(rows=(), unseen=frozenset()), GOAL, 0, True),
        (Page(rows=rows("a"), unseen=frozenset()), GOAL, 0, True),
        (Page(rows=rows("a"), unseen=frozenset(), repeated=True), SearchTarget(owed=2, floor=0.0, deep=True), 0, True),
        (Page(rows=rows("a"), unseen=frozenset("a")), GOAL, 1, False),
        (Page(rows=rows("a", "b"), unseen=frozenset("a")), GOAL, 1, False),
        (Page(rows=rows("a", "b"), unseen=frozenset("a")), GOAL, 2, True),
        (Page(rows=rows("a", "b"), unseen=frozenset("ab")), GOAL, 2, False),
        (Page(rows=rows("a"), unseen=frozenset("a")), SearchTarget(owed=None, floor=0.0), 9, False),
        (Page(rows=rows("a"), unseen=frozenset("a")), SearchTarget(owed=9, floor=1000.5), 0, True),
        (Page(rows=rows("a"), unseen=frozenset()), SearchTarget(owed=9, floor=0.0, deep=True), 0, False),
        (Page(rows=rows("a"), unseen=frozenset("a")), SearchTarget(owed=None, floor=0.0, baseline=1002.0), 0, True),
        (Page(rows=rows("a"), unseen=frozenset("a")), SearchTarget(owed=None, floor=0.0, baseline=1000.5), 0, False),
    ],
)
def test_a_search_stops_at_the_first_of_its_conditions_and_never_for_a_short_page(page, goal, found, last):
    assert is_last(page, goal, found=found, ended={"a", "b"}) is last


def test_what_was_not_found_is_owed_on_and_given_up_after_some_tries():
    mark, missed = MARK, False
    for tries in (1, 2, 3):
        mark, missed = after(recipe(6), mark, SearchTarget(owed=1, floor=0.0), Found(ended=0))
        assert (mark.owed, mark.tries, missed) == (1, tries, False)
    mark, missed = after(recipe(6), mark, SearchTarget(owed=1, floor=0.0), Found(ended=0))
    assert (mark.owed, mark.tries, missed) == (0, 0, True)


def test_while_pages_are_left_to_be_read_nothing_is_given_up():
    mark, missed = after(recipe(6), MARK, SearchTarget(owed=1, floor=0.0), Found(ended=0, gaps=("a",), beyond=True))
    assert (mark.owed, mark.tries, mark.gaps, missed) == (1, 0, ("a",), False)


def test_a_search_that_leaves_gaps_is_no_new_one():
    tried = msgspec.structs.replace(MARK, owed=1, tries=2)
    mark, missed = after(recipe(6), tried, SearchTarget(owed=1, floor=0.0), Found(ended=0, gaps=("a",)))
    assert (mark.tries, missed) == (2, False)


def test_what_lies_beyond_the_floor_is_given_up_at_once():
    assert after(recipe(6), MARK, SearchTarget(owed=1, floor=0.0), Found(ended=0, beyond=True))[1] is True


def test_jobs_that_the_counts_do_not_yet_tell_of_are_not_owed_later():
    mark, _ = after(recipe(6), MARK, SearchTarget(owed=1, floor=0.0), Found(ended=4, recent=2))
    assert mark.ahead == 2
    assert owed(mark, recipe(8)) == 0
    mark, _ = after(recipe(7), mark, SearchTarget(owed=-1, floor=0.0), Found(ended=0, recent=2))
    assert (mark.owed, mark.ahead) == (0, 1)
    mark, _ = after(recipe(7), mark, SearchTarget(owed=-1, floor=0.0), Found(ended=0, recent=0))
    assert (mark.owed, mark.ahead) == (0, 0)


def test_where_nothing_is_known_to_be_owed_the_counts_may_lack_whatever_is_young():
    mark, _ = after(recipe(6), None, SearchTarget(owed=None, floor=0.0), Found(ended=0, recent=2))
    assert mark.ahead == 2
